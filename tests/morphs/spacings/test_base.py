"""Frames end up equally far apart on paths whose pace is known, and what cannot be even is said."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import Cancelled, SamplingError, UsageError
from sfumato.morphs.spacings.base import SPACINGS, spread_of
from sfumato.morphs.spacings.least_spread import least_spread
from sfumato.morphs.spacings.reschedule import reschedule
from sfumato.watch import Watch
from tests.curves import CurveDistance, WeightFrames

Curve = Callable[[float], Sequence[float]]


def sigmoid(steepness: float, middle: float) -> Curve:
    return lambda weight: [1 / (1 + math.exp(-steepness * (weight - middle)))]


SMOOTH: dict[str, Curve] = {
    "late": lambda weight: [weight**6],
    "bend": lambda weight: [math.cos(1.9 * weight**2), math.sin(1.9 * weight**2), 0.3 * weight],
    "sudden": sigmoid(60, 0.37),
    "uneven": lambda weight: [weight**2 + 0.02 * math.sin(40 * weight), 0.3 * math.sin(5 * weight)],
}


@pytest.mark.parametrize("power", [1.0, 2.0, 0.6], ids=["adds-up", "squared", "saturates"])
@pytest.mark.parametrize("name", SMOOTH)
def test_uniform_makes_smooth_paths_even(name: str, power: float) -> None:
    frames, distance = WeightFrames(), CurveDistance(SMOOTH[name], power=power)
    spaced = SPACINGS["uniform"](frames, distance, 16)
    assert spread_of(spaced.even_distances or ()) > 1.1  # it was not even before
    assert len(spaced.weights) == 16
    assert spaced.weights[0] == 0.0
    assert spaced.weights[-1] == 1.0
    assert all(a < b for a, b in pairwise(spaced.weights))
    assert spaced.spread <= 1.1
    assert min(spaced.distances) >= 0.8 * sum(spaced.distances) / 15
    assert spaced.notes == ()
    assert len(frames.drawn) <= 4 * 16
    assert len(frames.calls) <= 10  # together, not one by one
    # the distances told are those of the frames
    shown = frames.at(spaced.weights)
    torch.testing.assert_close(torch.tensor(spaced.distances), distance(shown[:-1], shown[1:]).float())


@pytest.mark.parametrize("num_frames", [2, 3, 5, 40])
def test_uniform_takes_any_number_of_frames(num_frames: int) -> None:
    spaced = SPACINGS["uniform"](WeightFrames(), CurveDistance(sigmoid(12, 0.4)), num_frames)
    assert len(spaced.weights) == num_frames
    assert spaced.spread <= 1.1


def test_uniform_finds_the_closed_form() -> None:
    spaced = SPACINGS["uniform"](WeightFrames(), CurveDistance(lambda weight: [weight**2]), 5, tolerance=1e-4)
    torch.testing.assert_close(
        torch.tensor(spaced.weights), torch.tensor([0, 0.25, 0.5, 0.75, 1]).sqrt(), atol=1e-4, rtol=0
    )


def test_uniform_reports_a_jump_and_spreads_the_rest() -> None:
    frames = WeightFrames()
    curve = CurveDistance(lambda weight: [(weight >= 0.62) + 0.5 * weight**2])
    spaced = SPACINGS["uniform"](frames, curve, 16)
    assert any("the path jumps between 0.6" in note for note in spaced.notes)
    jump = max(spaced.distances)
    assert jump > 1.0
    assert spaced.spread == pytest.approx(jump * 15 / sum(spaced.distances))  # honest: the jump counts
    rest = sorted(spaced.distances)[:-1]
    assert spread_of(rest) <= 1.1
    assert len(frames.drawn) <= 6 * 16


def test_uniform_on_a_loop_is_even_and_says_so() -> None:
    curve = CurveDistance(lambda weight: [math.cos(math.tau * weight**2), math.sin(math.tau * weight**2)])
    spaced = SPACINGS["uniform"](WeightFrames(), curve, 16)
    assert spaced.spread <= 1.1
    assert any("turns back towards" in note for note in spaced.notes)


def test_uniform_says_where_the_path_turns_back() -> None:
    curve = CurveDistance(lambda weight: [weight + 0.2 * math.sin(5 * math.pi * weight)])
    spaced = SPACINGS["uniform"](WeightFrames(), curve, 16)
    assert any("turns back between" in note for note in spaced.notes)
    assert spaced.spread < spread_of(spaced.even_distances or ())


@pytest.mark.parametrize("name", ["uniform", "reschedule", "beta", "even", "step"])
def test_equal_frames_stay_even(name: str) -> None:
    spaced = SPACINGS[name](WeightFrames(), CurveDistance(lambda weight: [0.3]), 5)
    assert spaced.spread == 1.0
    assert all(a < b for a, b in pairwise(spaced.weights))
    if name in {"uniform", "reschedule", "even"}:
        assert spaced.weights == (0.0, 0.25, 0.5, 0.75, 1.0)
    if name in {"uniform", "reschedule", "beta"}:
        assert any("all frames are equal" in note for note in spaced.notes)


def test_uniform_keeps_to_its_draws_and_says_what_is_missing() -> None:
    frames = WeightFrames()
    spaced = SPACINGS["uniform"](frames, CurveDistance(sigmoid(80, 0.37)), 16, max_draws=32)
    assert len(frames.drawn) <= 32
    assert len(spaced.weights) == 16
    assert any(note.startswith("frames are not even to 0.1 after") for note in spaced.notes)


def test_uniform_draws_nothing_more_where_even_weights_do() -> None:
    frames = WeightFrames()
    SPACINGS["uniform"](frames, CurveDistance(lambda weight: [weight]), 16)
    assert len(frames.drawn) == 16


def test_uniform_beats_one_pass() -> None:
    curve = CurveDistance(sigmoid(30, 0.5))
    once, uniform = (SPACINGS[name](WeightFrames(), curve, 16).spread for name in ("reschedule", "uniform"))
    assert uniform < 1.1 < once


def test_uniform_chooses_among_the_frames_of_a_path_that_has_no_others() -> None:
    known = tuple(k / 32 for k in range(33))
    curve = CurveDistance(lambda weight: [weight**2])
    spaced = SPACINGS["uniform"](WeightFrames(known), curve, 5)
    assert set(spaced.weights) <= set(known)
    places = combinations(known[1:-1], 3)
    best = min(np.ptp(np.diff(np.square([0.0, *chosen, 1.0]))) for chosen in places)
    assert np.ptp(spaced.distances) == pytest.approx(best)
    assert SPACINGS["even"](WeightFrames(known), curve, 5).weights == (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("name", ["step", "reschedule", "beta"])
def test_other_spacings_refuse_such_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="5 weights only"):
        SPACINGS[name](WeightFrames((0.0, 0.2, 0.5, 0.6, 1.0)), CurveDistance(lambda weight: [weight]), 4)


@pytest.mark.parametrize("name", ["even", "uniform"])
def test_refuses_more_frames_than_such_a_path_has(name: str) -> None:
    with pytest.raises(UsageError, match="num_frames=4: ask for"):
        SPACINGS[name](WeightFrames((0.0, 0.5, 1.0)), CurveDistance(lambda weight: [weight]), 4)


def test_step_takes_steps_of_one_size() -> None:
    spaced = SPACINGS["step"](WeightFrames(), CurveDistance(lambda weight: [weight**3]), 16, delta=0.15, tolerance=1e-3)
    assert all(abs(value - 0.15) <= 1e-3 for value in spaced.distances[:-1])
    assert spaced.distances[-1] < 0.15
    assert any("make 8 frames; 16 were asked for" in note for note in spaced.notes)


def test_step_stops_on_a_path_without_a_step_that_small() -> None:
    def noisy(first: Tensor, second: Tensor) -> Tensor:
        return torch.where(first == second, 0.0, 1.0)[:, 0]

    spaced = SPACINGS["step"](WeightFrames(), CurveDistance(lambda weight: [weight], noisy), 4, max_draws=100)
    assert len(spaced.looked) == 100
    assert spaced.weights[-1] == 1.0
    assert any("stopped after 100 draws" in note for note in spaced.notes)


@pytest.mark.parametrize(
    ("distances", "num_frames", "expected"),
    [
        ([1.0, 3.0], 5, [0, 0.5, 2 / 3, 5 / 6, 1.0]),
        ([2.0, 0.0, 2.0], 3, [0, 1 / 3, 1]),  # a value that is hit belongs to the interval before
        ([0.0, 1.0, 0.0], 3, [0, 0.5, 1]),  # the ends stay
        ([0.0, 0.0], 3, [0, 0.5, 1]),
    ],
)
def test_reschedule(distances: list[float], num_frames: int, expected: list[float]) -> None:
    weights = [k / len(distances) for k in range(len(distances) + 1)]
    assert reschedule(distances, weights, num_frames) == pytest.approx(expected)


def test_reschedule_refuses_lengths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        reschedule([1.0], [0.0, 0.5, 1.0], 3)


def test_least_spread_equals_trying_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        table = draw.random((8, 8))
        spreads = {
            chosen: np.ptp([table[a, b] for a, b in pairwise((0, *chosen, 7))])
            for chosen in combinations(range(1, 7), 3)
        }
        found = least_spread(table, 5)
        assert found[0] == 0
        assert found[-1] == 7
        assert spreads[tuple(found[1:-1])] == min(spreads.values())


@pytest.mark.parametrize("name", SPACINGS)
def test_every_spacing_keeps_the_ends_and_draws_each_frame_once(name: str) -> None:
    frames = WeightFrames()
    spaced = SPACINGS[name](frames, CurveDistance(SMOOTH["bend"]), 6)
    assert spaced.weights[0] == 0.0
    assert spaced.weights[-1] == 1.0
    assert len(spaced.distances) == len(spaced.weights) - 1
    assert len(frames.drawn) == len(set(frames.drawn))
    assert set(spaced.looked) | {0.0, 1.0} == set(frames.drawn)
    if not SPACINGS[name].sets_num_frames:
        assert len(spaced.weights) == 6


@pytest.mark.parametrize("name", SPACINGS)
def test_every_spacing_refuses_bad_arguments_before_drawing(name: str) -> None:
    frames, distance = WeightFrames(), CurveDistance(lambda weight: [weight])
    with pytest.raises(UsageError, match="num_frames must be at least 2"):
        SPACINGS[name](frames, distance, 1)
    with pytest.raises(UsageError, match="unknown option 'tolerence'"):
        SPACINGS[name](frames, distance, 5, tolerence=0.1)
    assert frames.drawn == []


def test_refuses_an_unknown_spacing() -> None:
    with pytest.raises(UsageError, match="did you mean 'uniform'"):
        SPACINGS["unifrom"]


@pytest.mark.parametrize("name", SPACINGS)
def test_a_distance_that_is_no_number_is_an_error(name: str) -> None:
    with pytest.raises(SamplingError, match="synthetic distance of the frames at"):
        SPACINGS[name](WeightFrames(), CurveDistance(lambda weight: [math.nan]), 4)


@pytest.mark.parametrize("name", ["uniform", "beta", "step"])
def test_stops_when_asked(name: str) -> None:
    asked = iter([False, True])
    watch = Watch(cancelled=lambda: next(asked, True))
    frames = WeightFrames()
    frames.watch = watch
    with pytest.raises(Cancelled):
        SPACINGS[name](frames, CurveDistance(sigmoid(40, 0.5)), 8, watch=watch)
