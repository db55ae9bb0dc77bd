"""DPM-Solver++ (Lu et al., 2022), https://arxiv.org/abs/2211.01095: second order, one network call a step.

"2M": each step extrapolates the predicted clean latents from the step before. The first step is of first order, and so
is the last where it ends without noise or the run has fewer than 15 steps, as in diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, inf, log

from torch import Tensor

from sfumato.models.schedules import Level, Prediction, Step

FEW = 15
"""Runs of fewer steps end with a step of first order."""


@dataclass(frozen=True)
class Before:
    """What a step needs of the one before: its clean latents, and the logarithm of signal over noise there."""

    x0: Tensor
    log_snr: float


@dataclass(frozen=True)
class DPMSolverPP:
    r"""DPM-Solver++(2M), for the sampling loop.

    .. math:: x_{prev} = \frac{n_{prev}}{n} x - s_{prev}\,(e^{-h} - 1)\,D, \qquad
              D = \hat x_0 + \frac{h}{2 h_{before}}\,(\hat x_0 - \hat x_0^{before})

    with levels (s, n) and h the growth of log(s / n) over a step.
    """

    def init(self, latents: Tensor, first: Step) -> Before | None:
        return None

    def stochastic(self, step: Step) -> bool:
        return False

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: Before | None, z: Tensor | None
    ) -> tuple[Tensor, Before | None]:
        here, there = log_snr(step.level), log_snr(step.level_prev)
        growth, clean = there - here, prediction.x0
        last = step.index + 1 == step.num_steps
        if state is not None and growth < inf and not (last and step.num_steps < FEW):
            clean = clean + growth / (2.0 * (here - state.log_snr)) * (clean - state.x0)
        kept = step.level_prev.noise / step.level.noise
        reached = kept * latents - step.level_prev.signal * expm1(-growth) * clean
        return reached, Before(prediction.x0, here)


def log_snr(level: Level) -> float:
    """log(signal / noise): minus infinity for pure noise, infinity for clean latents."""
    if level.noise == 0.0:
        return inf
    return log(level.signal / level.noise) if level.signal > 0.0 else -inf
