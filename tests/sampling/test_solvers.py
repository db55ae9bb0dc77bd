"""Solvers of a flow's ODE on one whose solution is known: x' = cos(5 s) x, in both directions."""

from collections.abc import Callable
from math import cos, exp, sin
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.sampling.solvers import CarriedMidpoint, Implicit, Interval, Solver, euler, midpoint
from tests.sampling.test_loop import COUNTS, order_of


def velocity(latents: Tensor, time: float) -> Tensor:
    return cos(5.0 * time / 1000.0) * latents


def exact(level: float) -> float:
    return exp(sin(5.0 * level) / 5.0)


def walked(solver: Solver, start: float, end: float, count: int) -> float:
    """From one level to another in equal steps; gives how far off the end is."""
    x, length = torch.tensor([exact(start)], dtype=torch.float64), (end - start) / count
    for k in range(count):
        level, level_to = start + k * length, start + (k + 1) * length
        interval = Interval(1000.0 * level, 1000.0 * level_to, level, level_to, k)
        x = x + interval.length * solver(velocity, x, interval)
    return abs(float(x) - exact(end))


@pytest.mark.parametrize(
    ("solver", "order"),
    [(lambda: euler, 1.0), (lambda: midpoint, 2.0), (CarriedMidpoint, 2.0), (Implicit, 1.0)],
)
@pytest.mark.parametrize(("start", "end"), [(0.2, 0.9), (0.8, 0.1)])
def test_the_error_falls_at_the_stated_order(solver: Callable[[], Any], order: float, start: float, end: float) -> None:
    errors = [walked(solver(), start, end, count) for count in COUNTS]
    assert order_of(errors) == pytest.approx(order, abs=0.1), errors


def test_evaluations_of_a_step() -> None:
    seen: list[float] = []

    def watched(latents: Tensor, time: float) -> Tensor:
        seen.append(time)
        return velocity(latents, time)

    def times(solver: Any) -> list[list[float]]:
        found = []
        for start, end in ((0.0, 400.0), (400.0, 1000.0)):
            seen.clear()
            solver(watched, torch.ones(1), Interval(start, end, start / 1000, end / 1000, 0))
            found.append(list(seen))
        return found

    assert times(euler) == [[0.0], [400.0]]
    assert times(midpoint) == [[0.0, 200.0], [400.0, 700.0]]
    assert times(CarriedMidpoint()) == [[0.0, 200.0], [700.0]]
    assert times(Implicit()) == [[0.0, 400.0], [1000.0]]
