"""Spacing of attention interpolation: a Beta distribution that is fitted while frames are drawn.

Source: He et al., 2024 (AID), https://arxiv.org/abs/2403.17924. Frames are added one by one, each between the two
neighbours that are farthest apart, at the median of a Beta distribution between them; the distribution is fitted to the
distances measured so far. At the end the most even of the drawn frames are chosen.

Differs from the authors' code: the choice is the best there is (their dynamic programme may miss it); a draw that would
repeat a frame goes half-way instead; weights 0 and 1 are always among the chosen.

scipy is not needed: the Beta distribution and the fit are written out here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.base import Spaced, any_weight, spaced, spacing
from sfumato.morphs.spacings.least_spread import least_spread
from sfumato.morphs.spacings.pair_distances import Between, Ruler
from sfumato.options import Option
from sfumato.watch import Watch

SMALLEST = 1e-6
LARGEST = 1e8
"""Bounds of both parameters of the distribution while it is fitted."""

MOST_STEPS = 200


@spacing(
    "beta",
    title="Beta prior (attention interpolation)",
    paper="He et al., 2024, https://arxiv.org/abs/2403.17924",
    summary="Draws frames where the path changes fastest, then chooses the most even of them.",
    when="The number of draws must be limited: it is known beforehand.",
    cost="each frame twice, or as many draws as exploration says",
)
def beta(
    frames: Frames,
    distance: Distance,
    num_frames: int,
    *,
    watch: Watch,
    exploration: Annotated[
        int | None,
        Option(
            "frames to draw in all, at least as many as the morph has; more are more even; none: twice as many", low=3
        ),
    ] = None,
    initial: Annotated[
        tuple[float, float],
        Option("alpha and beta of the Beta distribution before the first distance is measured", low=1e-3, high=1e3),
    ] = (3.0, 3.0),
) -> Spaced:
    """Explores, then chooses; see the module."""
    any_weight(frames, "beta")
    size = max(2 * num_frames if exploration is None else exploration, num_frames, 3)
    ruler = Ruler(frames, distance)
    seen = explore(ruler, size, initial, watch=watch)

    pairs = list(itertools.combinations(range(size), 2))
    table = np.full((size, size), np.inf)
    table[tuple(zip(*pairs, strict=True))] = ruler.between((seen.weights[k], seen.weights[j]) for k, j in pairs)
    weights = [seen.weights[k] for k in least_spread(table, num_frames)]
    notes = [f"all frames are equal by the {distance.name} distance"] if not any(seen.distances) else []
    record = {"alpha": seen.fits[-1].alpha, "beta": seen.fits[-1].beta, "draws": size} if seen.fits else {}
    return spaced(ruler, weights, looked=seen.drawn, notes=notes, record=record)


@dataclass(frozen=True)
class Beta:
    """A Beta distribution on [0, 1].

    Attributes:
        alpha, beta: Both above 0.
    """

    alpha: float
    beta: float

    def cdf(self, value: float) -> float:
        r"""The regularised incomplete beta function :math:`I_x(\alpha, \beta)`, by its continued fraction.

        Reference: DLMF, https://dlmf.nist.gov/8.17, Eq. 8.17.22 and 8.17.4; Lentz, 1976, for the evaluation.

        Args:
            value: In [0, 1].
        """
        if value <= 0.0 or value >= 1.0:
            return float(value >= 1.0)
        a, b, x = self.alpha, self.beta, value
        if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast on the other side alone
            return 1.0 - _tail(b, a, 1.0 - x, math.log1p(-x), math.log(x))
        return _tail(a, b, x, math.log(x), math.log1p(-x))

    def quantile(self, share: float) -> float:
        """The value below which a share in [0, 1] of the mass lies."""
        return self._solve(share, 0.0, 1.0)

    def median_between(self, low: float, high: float) -> float:
        """The value that halves the mass between two others."""
        return self._solve((self.cdf(low) + self.cdf(high)) / 2.0, low, high)

    def _solve(self, share: float, low: float, high: float) -> float:
        """Newton's steps, and a halving wherever one would leave the bracket or the steps shrink too slowly."""
        if share <= 0.0 or share >= 1.0:
            return float(share >= 1.0)
        log_norm = math.lgamma(self.alpha + self.beta) - math.lgamma(self.alpha) - math.lgamma(self.beta)
        value = (low + high) / 2.0
        for turn in range(2000):
            error = self.cdf(value) - share
            low, high = (low, value) if error > 0.0 else (value, high)
            if error == 0.0 or high - low <= 4e-16 * high:
                break
            log_density = log_norm + (self.alpha - 1.0) * math.log(value) + (self.beta - 1.0) * math.log1p(-value)
            after = value - error * math.exp(-log_density) if -700.0 < log_density < 700.0 else low
            halved = (low + high) / 2.0
            after = after if low < after < high and turn % 8 != 7 else halved
            if abs(after - value) <= 1e-16 * value or not low < after < high:
                break
            value = after
        return value


def _tail(a: float, b: float, x: float, log_x: float, log_rest: float) -> float:
    """I_x(a, b) where x is left of the mean."""
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * log_x + b * log_rest) / a
    numerator, denominator, value = 1.0, 1.0 / _off_zero(1.0 - (a + b) * x / (a + 1.0)), 1.0
    value = denominator
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            denominator = 1.0 / _off_zero(1.0 + term * denominator)
            numerator = _off_zero(1.0 + term / numerator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1.0) < 1e-15:
            break
    return front * value


def _off_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


@dataclass(frozen=True)
class Exploration:
    """What was seen on the way.

    Attributes:
        weights: All of them, ascending, the ends among them.
        distances: Between neighbours.
        drawn: The weights but the ends, in the order in which they were drawn.
        fits: The distribution fitted after each weight but the first.
    """

    weights: tuple[float, ...]
    distances: tuple[float, ...]
    drawn: tuple[float, ...]
    fits: tuple[Beta, ...]


def explore(between: Between, size: int, initial: tuple[float, float], *, watch: Watch | None = None) -> Exploration:
    """Draws frames where neighbours are furthest apart.

    Args:
        between: Distance of the frames at two weights.
        size: Weights in all, at least 3.
        initial: alpha and beta before the first fit.
        watch: Progress and cancellation.
    """
    prior, weights, drawn, fits = Beta(*initial), [0.0, 0.5, 1.0], [0.5], list[Beta]()
    distances = [between(0.0, 0.5), between(0.5, 1.0)]
    for _ in (watch or Watch()).during("exploring the path").over(range(size - 3)):
        place = distances.index(max(distances))
        low, high = weights[place : place + 2]
        weight = prior.median_between(low, high)
        if not low < weight < high:
            weight = (low + high) / 2.0
        weights.insert(place + 1, weight)
        distances[place : place + 1] = [between(low, weight), between(weight, high)]
        drawn.append(weight)
        if (total := math.fsum(distances)) > 0.0:
            reached = [0.0, *itertools.accumulate(distances)]
            prior = fit_beta(weights, [value / total for value in reached])
            fits.append(prior)
    return Exploration(tuple(weights), tuple(distances), tuple(drawn), tuple(fits))


def fit_beta(weights: Sequence[float], shares: Sequence[float], *, start: tuple[float, float] = (1.0, 1.0)) -> Beta:
    r"""Fits a Beta distribution's CDF to points by least squares.

    .. math:: \min_{\alpha, \beta \ge 10^{-6}} \sum_i (I_{x_i}(\alpha, \beta) - y_i)^2

    Levenberg and Marquardt's steps, from `start`, cut off at the bounds.

    Args:
        weights: x, in [0, 1].
        shares: y, in [0, 1].
        start: Where the search begins.
    """

    def residuals(point: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        law = Beta(*point.tolist())
        return np.array([law.cdf(x) - y for x, y in zip(weights, shares, strict=True)])

    point, damping = np.array(start), 1e-3
    off = residuals(point)
    for _ in range(MOST_STEPS):
        steps = np.maximum(np.abs(point) * 1e-6, 1e-9)
        slopes = [(residuals(point + side) - off) / side.sum() for side in np.diag(steps)]
        jacobian = np.stack(slopes, axis=1)  # (weight, parameter)
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ off
        while damping < 1e12:
            damped = normal + damping * np.diag(np.maximum(normal.diagonal(), 1e-30))
            tried = np.maximum(point - np.linalg.solve(damped, gradient), SMALLEST)
            tried = np.minimum(tried, LARGEST)
            new = residuals(tried)
            if new @ new < off @ off:
                break
            damping *= 10.0
        else:
            break
        moved, gained = np.abs(tried - point) / point, off @ off - new @ new
        point, off, damping = tried, new, max(damping / 10.0, 1e-12)
        if moved.max() < 1e-9 or gained < 1e-14 * (new @ new) or new @ new < 1e-24:
            break
    return Beta(*point.tolist())
