r"""Solvers of a rectified flow's ODE, for sampling and inversion alike: which velocity carries latents over a step.

A solver is asked for the velocity of each step in turn, and the step is Euler's with it: x + (b - a) v from level a to
b, noisier or less noisy. Networks of flows can be asked at any level, so a solver may look between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sfumato.models.schedules import Step

Velocity = Callable[[Tensor, float], Tensor]
"""The network's velocity after guidance, of latents and the time that it is conditioned on."""


@dataclass(frozen=True)
class Interval:
    """A step in the direction in which it is walked.

    Attributes:
        time, time_to: What the network is conditioned on at both ends.
        level, level_to: Noise levels of both ends.
        index: Of the step, in sampling order.
    """

    time: float
    time_to: float
    level: float
    level_to: float
    index: int

    @classmethod
    def down(cls, step: Step) -> Interval:
        """Towards the image."""
        return cls(step.time, max(step.time_prev, 0.0), step.level.noise, step.level_prev.noise, step.index)

    @classmethod
    def up(cls, step: Step) -> Interval:
        """Towards noise."""
        return cls(max(step.time_prev, 0.0), step.time, step.level_prev.noise, step.level.noise, step.index)

    @property
    def length(self) -> float:
        """b - a."""
        return self.level_to - self.level

    @property
    def middle(self) -> float:
        """Time halfway: times of a flow are in proportion to its levels."""
        return (self.time + self.time_to) / 2


class Solver(Protocol):
    """One run of a solver; it may remember what it saw at the step before."""

    def __call__(self, velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
        """The velocity to step with."""


def euler(velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
    """The velocity where the step begins: order 1, one evaluation."""
    return velocity(latents, interval.time)


def midpoint(velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
    r"""The midpoint rule: order 2, two evaluations.

    .. math:: v = v(x + \tfrac{b - a}{2} v(x, a), \tfrac{a + b}{2})

    Reference: Wang et al., 2024 (RF-Solver), https://arxiv.org/abs/2411.04746, Eq. 9: its Taylor step with a finite
    difference for the derivative is this rule.
    """
    half = interval.length / 2 * velocity(latents, interval.time)
    return velocity(latents + half, interval.middle)


class CarriedMidpoint:
    r"""The midpoint rule with the velocity of the step before in the place of v(x, a): order 2, one evaluation.

    Reference: Deng et al., 2024 (FireFlow), https://arxiv.org/abs/2412.07517, Alg. 1.

    Attributes:
        carried: That velocity; None: v(x, a) is evaluated.
    """

    def __init__(self, carried: Tensor | None = None) -> None:
        self.carried = carried

    def __call__(self, velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
        if self.carried is None:
            self.carried = velocity(latents, interval.time)
        self.carried = velocity(latents + interval.length / 2 * self.carried, interval.middle)
        return self.carried


class Implicit:
    r"""The velocity where the step ends, at latents that the velocity of the step before predicts: order 1.

    .. math:: v = v(x + (b - a) v', b)

    One predictor-corrector turn of the implicit Euler step, which Euler's step in the other direction undoes.
    Reference: Jiao et al., 2025 (Uni-Inv), https://arxiv.org/abs/2504.13109, Alg. 1.
    """

    def __init__(self) -> None:
        self._carried: Tensor | None = None

    def __call__(self, velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
        if self._carried is None:
            self._carried = velocity(latents, interval.time)
        self._carried = velocity(latents + interval.length * self._carried, interval.time_to)
        return self._carried
