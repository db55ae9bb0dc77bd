"""Frames of a path through several images, shared out so that all legs move at one pace."""

from collections.abc import Callable

import pytest

from sfumato.morphs.spacings.base import Spaced, even_weights
from sfumato.morphs.spacings.several_images import at_one_pace, expected_step, shared_out


@pytest.mark.parametrize(
    ("lengths", "most", "total", "counts"),
    [
        ([1.0, 1.0], [None, None], 8, [5, 5]),
        ([3.0, 1.0], [None, None], 8, [7, 3]),
        ([8.0, 1.0], [None, None], 4, [3, 3]),  # three frames at least
        ([3.0, 1.0], [5, None], 8, [5, 5]),  # no more than there are
        ([3.0, 1.0], [3, 4], 8, [3, 4]),
        ([0.0, 0.0], [None, None], 6, [4, 4]),
        ([1.0, 2.0, 3.0], [None] * 3, 24, [5, 9, 13]),
    ],
)
def test_frames_are_shared_out_by_length(
    lengths: list[float], most: list[int | None], total: int, counts: list[int]
) -> None:
    assert shared_out([{4: length / 4} for length in lengths], most, total) == counts


def test_steps_shrink_as_measured() -> None:
    assert expected_step({4: 0.5}, 8) == pytest.approx(0.25)
    assert expected_step({4: 0.5, 16: 0.5 / 16}, 8) == pytest.approx(0.125)  # with the square
    assert expected_step({4: 0.5, 8: 0.6}, 16) == pytest.approx(0.6 * 0.5**0.5)  # not ever longer
    assert expected_step({4: 0.0, 8: 0.0}, 16) == 0.0


def legs(steps: list[Callable[[int], float]], num_frames: int) -> tuple[list[Spaced], list[int]]:
    """Legs whose steps have a known length; the number of times that each was spaced."""
    times = [1] * len(steps)

    def spaced(k: int, count: int) -> Spaced:
        times[k] += 1
        return Spaced(tuple(even_weights(count)), (steps[k](count - 1),) * (count - 1))

    first = [spaced(k, num_frames) for k in range(len(steps))]
    times[:] = [1] * len(steps)
    return at_one_pace(first, [None] * len(steps), spaced), times


def test_a_distance_that_does_not_add_up_is_learned() -> None:
    found, _ = legs([lambda n: 9.0 / n**2, lambda n: 1.0 / n**2], 9)  # by length alone 14 and 2 steps: 2.3 to 12.5
    assert [len(one.distances) for one in found] == [12, 4]


def test_equal_legs_stay_as_they_are() -> None:
    found, times = legs([lambda n: 1.0 / n, lambda n: 1.0 / n], 5)
    assert [len(one.weights) for one in found] == [5, 5]
    assert times == [1, 1]
