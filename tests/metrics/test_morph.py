"""Measures of a morph: closed forms, and the authors' constants."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.metrics import (
    PixelDistance,
    consecutive_distances,
    diffmorpher_measures,
    directness,
    endpoint_fidelity,
    lora_rank,
    perceptual_path_length,
    relative_perceptual_path_diversity,
    smoothness,
)


def grey(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


class SquareDistance:
    name = "square"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).square().mean(dim=(1, 2, 3))


def test_steps_are_of_neighbours_in_order() -> None:
    found = consecutive_distances(grey([0.0, 0.1, 0.4, -0.2]), PixelDistance(), batch_size=2)
    assert found.tolist() == pytest.approx([0.1, 0.3, 0.6])
    with pytest.raises(ValueError, match="two frames at least, got 1"):
        consecutive_distances(grey([0.0]), PixelDistance())


def test_equal_steps_are_perfectly_smooth() -> None:
    found = smoothness([0.2] * 7)
    assert (found.std_over_mean, found.max_over_mean, found.evenness) == pytest.approx((0, 1, 1))


def test_a_single_jump_is_the_worst() -> None:
    found = smoothness([0.0, 0.0, 0.8, 0.0])
    assert (found.std_over_mean, found.max_over_mean, found.evenness) == pytest.approx((3**0.5, 4, 1 / 4))


def test_smoothness_follows_the_definitions() -> None:
    steps = np.random.default_rng(0).uniform(0.1, 1, 9)
    gini = sum(abs(a - b) for a in steps for b in steps) / (2 * 81 * steps.mean())
    found = smoothness(torch.tensor(steps))
    assert found.evenness == pytest.approx(1 - gini)
    assert found.std_over_mean == pytest.approx(steps.std() / steps.mean())
    scaled = smoothness(torch.tensor(7 * steps))
    assert vars(scaled) == pytest.approx(vars(found))  # the distance's unit does not matter


def test_frames_that_never_move_have_no_smoothness() -> None:
    assert math.isnan(smoothness([0.0, 0.0]).evenness)


def test_directness_of_the_straight_way_and_of_a_detour() -> None:
    assert directness([0.1, 0.2, 0.3], 0.6) == pytest.approx((0.6, 1.0))
    assert directness([0.5, 0.4, 0.3], 0.6) == pytest.approx((1.2, 2.0))
    assert math.isnan(directness([0.5, 0.5], 0.0).detour)


def test_ends_are_compared_with_the_pictures() -> None:
    frames = grey([0.1, 0.5, 0.9])
    found = endpoint_fidelity(frames, grey([0.0]), grey([0.9]), PixelDistance())
    assert found == pytest.approx((0.1, 0.0))


def test_path_length_is_the_squared_speed() -> None:
    alphas = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = perceptual_path_length(lambda a: grey([a**2]), SquareDistance(), alphas, epsilon=1e-4, discard=(0, 100))
    expected = np.array([((a + 1e-4) ** 2 - a**2) ** 2 for a in alphas.tolist()]) / 1e-8
    assert found.kept.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert (found.mean, found.std) == pytest.approx((expected.mean(), expected.std()), rel=1e-9)


def test_path_length_drops_the_outermost_values() -> None:
    alphas = [k / 200 for k in range(200)]
    found = perceptual_path_length(lambda a: grey([a**2]), SquareDistance(), alphas)
    assert len(found.kept) == 198  # percentiles 1 and 99 of 200 values, ends kept: orders 1 and 198
    few = perceptual_path_length(lambda a: grey([a**2]), SquareDistance(), alphas[:50])
    assert len(few.kept) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epsilon": 0.0}, "epsilon must be positive"), ({"discard": (99, 1)}, "percentiles in order")],
)
def test_path_length_names_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perceptual_path_length(lambda a: grey([a]), SquareDistance(), [0.5], **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one at least"):
        perceptual_path_length(lambda a: grey([a]), SquareDistance(), [])


def test_diffmorphers_measures_are_sum_and_variance() -> None:
    steps = np.random.default_rng(1).uniform(0, 1, 16)
    assert diffmorpher_measures(torch.tensor(steps)) == pytest.approx((steps.sum(), steps.var()))
    assert diffmorpher_measures([0.1, 0.3], num_frames=3) == pytest.approx((0.4, 0.01))
    with pytest.raises(ValueError, match="17 frames have 16 steps, got 2"):
        diffmorpher_measures([0.1, 0.3])


def test_rppd_of_a_straight_path() -> None:
    # frames at 0.9, 0.8, ..., 0 on the way from image 1 (0) to image 2 (1), after a jump of 0.9
    released = relative_perceptual_path_diversity([0.9, *[0.1] * 9], 1.0)
    corrected = relative_perceptual_path_diversity([0.9, *[0.1] * 9], 1.0, released=False)
    assert (released, corrected) == pytest.approx((1.8 / 9, 0.1))
    assert relative_perceptual_path_diversity([1.8, *[0.2] * 9], 2.0) == pytest.approx(released)  # no unit
    with pytest.raises(ValueError, match="the two images are equal"):
        relative_perceptual_path_diversity([0.1, 0.1], 0.0)
    with pytest.raises(ValueError, match="got 1 distances"):
        relative_perceptual_path_diversity([0.1], 1.0)


@pytest.mark.parametrize(
    ("rppd", "variances", "rank"),
    [
        (0.0, (1.0, 1.0), 1),
        (7 / 18, (1.0, 1.0), 2),
        (7.99 / 18, (1.0, 1.0), 2),
        (9 / 18, (1.0, 1.0), 8),
        (0.1, (1.0, 0.85), 16),
        (0.1, (1.2, 1.0), 1),  # apart, but neither is small
        (0.1, (0.85, 0.8), 1),  # small, but not apart
        (12 / 18, (0.5, 1.0), 64),
    ],
)
def test_rank_rule(rppd: float, variances: tuple[float, float], rank: int) -> None:
    assert lora_rank(rppd, variances) == rank


@pytest.mark.parametrize("rppd", [-0.1, float("nan"), 3.0])
def test_rank_of_nonsense_is_refused(rppd: float) -> None:
    with pytest.raises(ValueError, match="rppd must be"):
        lora_rank(rppd, (1.0, 1.0))


@pytest.mark.parametrize("steps", [[], [-0.1], [float("nan")], [[0.1, 0.2]]])
def test_distances_that_are_none_are_refused(steps: list[float]) -> None:
    for measure in (smoothness, lambda s: directness(s, 1.0), lambda s: diffmorpher_measures(s, num_frames=2)):
        with pytest.raises(ValueError, match="distances must be"):
            measure(steps)
