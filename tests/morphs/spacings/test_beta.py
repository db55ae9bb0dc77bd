"""The Beta distribution and its fit against scipy, which the package itself does without."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import beta as reference

from sfumato.morphs.spacings.base import SPACINGS
from sfumato.morphs.spacings.beta import Beta, explore, fit_beta
from tests.curves import CurveDistance, WeightFrames

SHAPES = [(1, 1), (3, 3), (0.05, 2), (0.5, 0.5), (20, 20), (12, 4), (400, 3), (150, 300)]


@pytest.mark.parametrize(("alpha", "beta"), SHAPES)
def test_distribution_is_scipys(alpha: float, beta: float) -> None:
    law = Beta(alpha, beta)
    for value in [0.0, 1e-9, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0]:
        assert law.cdf(value) == pytest.approx(reference.cdf(value, alpha, beta), abs=1e-12)
    for share in [0.0, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0]:
        assert law.quantile(share) == pytest.approx(reference.ppf(share, alpha, beta), rel=1e-9, abs=1e-300)
    middle = law.median_between(0.2, 0.9)
    assert law.cdf(middle) == pytest.approx((law.cdf(0.2) + law.cdf(0.9)) / 2, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_fit_is_scipys(seed: int) -> None:
    draw = np.random.default_rng(seed)
    alpha, beta = draw.uniform(0.5, 12, 2)
    weights = np.sort([0.0, *draw.random(7), 1.0])
    shares = np.clip(reference.cdf(weights, alpha, beta) + draw.normal(0, 0.02, 9), 0, 1)
    expected = curve_fit(
        lambda x, a, b: reference.cdf(x, a, b), weights, shares, p0=(1, 1), bounds=(1e-6, np.inf), ftol=1e-12
    )[0]
    found = fit_beta(weights.tolist(), shares.tolist())
    assert (found.alpha, found.beta) == pytest.approx(expected, rel=1e-4)


def test_fit_finds_the_distribution_that_made_the_points() -> None:
    weights = [k / 10 for k in range(11)]
    found = fit_beta(weights, [Beta(2.5, 7.0).cdf(weight) for weight in weights])
    assert (found.alpha, found.beta) == pytest.approx((2.5, 7.0), rel=1e-6)


def test_explores_where_neighbours_are_far_apart() -> None:
    found = explore(lambda a, b: abs(math.tanh(9 * (a - 0.7)) - math.tanh(9 * (b - 0.7))), 12, (3.0, 3.0))
    assert len(found.weights) == 12
    assert len(found.fits) == 9
    assert all(a < b for a, b in pairwise(found.weights))
    assert sum(0.5 <= weight <= 0.9 for weight in found.weights) >= 7
    assert found.fits[-1].alpha > found.fits[-1].beta  # mass towards 0.7


def test_draws_as_many_as_it_is_told() -> None:
    frames = WeightFrames()
    spaced = SPACINGS["beta"](frames, CurveDistance(lambda weight: [weight**3]), 5, exploration=9)
    assert len(frames.drawn) == 9
    assert len(spaced.weights) == 5
    even = SPACINGS["even"](WeightFrames(), CurveDistance(lambda weight: [weight**3]), 5)
    assert spaced.spread < even.spread
