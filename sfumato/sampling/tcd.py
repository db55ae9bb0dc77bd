"""Trajectory consistency sampling (Zheng et al., 2024), https://arxiv.org/abs/2402.19159.

Each step goes along the predicted path to a level below the next one, and up to it with fresh noise. As in diffusers,
the last step ends at the level of timestep 0, not at the clean latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Prediction, Schedule, Step, add_noise
from sfumato.sampling.lcm import is_last


@dataclass(frozen=True)
class TCD:
    """The step of a trajectory consistency model, for the sampling loop.

    Attributes:
        schedule: With the levels between those of a run.
        eta: Share of the next timestep by which a step goes below it, in [0, 1]: 0 = DDIM, 1 = consistency sampling.

    Raises:
        UsageError: eta is outside [0, 1].
    """

    schedule: Schedule
    eta: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise UsageError(f"eta must be in [0, 1], got {self.eta:g}")

    def init(self, latents: Tensor, first: Step) -> None:
        """Remembers nothing."""

    def stochastic(self, step: Step) -> bool:
        return self.eta > 0.0 and not is_last(step)

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        following = 0.0 if is_last(step) else step.time_prev
        below = self.schedule.level(floor((1.0 - self.eta) * following + 1e-6))  # 0.7 * 350 is 244.99...
        reached = add_noise(prediction.x0, prediction.eps, below)
        if not self.stochastic(step):
            return reached, None
        if z is None:
            raise UsageError(f"eta={self.eta:g} adds noise at every step but the last: pass noise")
        ratio = step.level_prev.signal / below.signal
        return ratio * reached + sqrt(max(1.0 - ratio**2, 0.0)) * z, None
