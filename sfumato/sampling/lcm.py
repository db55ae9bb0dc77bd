"""Multistep consistency sampling (Luo et al., 2023), https://arxiv.org/abs/2310.04378: clean latents, and noise anew.

A latent consistency model predicts from any level where the path ends. Each step keeps that prediction and adds a fresh
draw of the next level's noise; the last step returns the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Prediction, Step, add_noise


@dataclass(frozen=True)
class LCM:
    """The step of a latent consistency model, for the sampling loop.

    Attributes:
        timestep_scaling: Factor on the timestep in the scalings that make the model the identity at timestep 0.
        sigma_data: Standard deviation of the data in them.
    """

    timestep_scaling: float = 10.0
    sigma_data: float = 0.5

    def init(self, latents: Tensor, first: Step) -> None:
        """Remembers nothing."""

    def stochastic(self, step: Step) -> bool:
        return not is_last(step)

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        return renoised(self.denoised(latents, prediction, step.time), step, z), None

    def denoised(self, latents: Tensor, prediction: Prediction, time: float) -> Tensor:
        r"""The consistency function, shaped like the latents: c_skip x + c_out x0.

        .. math:: c_{skip} = \frac{\sigma^2}{(k t)^2 + \sigma^2}, \qquad c_{out} = \frac{k t}{\sqrt{(k t)^2 + \sigma^2}}
        """
        scaled, variance = self.timestep_scaling * time, self.sigma_data**2
        skip, out = variance / (scaled**2 + variance), scaled / sqrt(scaled**2 + variance)
        return skip * latents + out * prediction.x0


def is_last(step: Step) -> bool:
    """Whether no step follows."""
    return step.index + 1 == step.num_steps


def renoised(clean: Tensor, step: Step, z: Tensor | None) -> Tensor:
    """Clean latents at the step's less noisy level by a draw; the clean latents themselves after the last step.

    Raises:
        UsageError: The draw is missing.
    """
    if is_last(step):
        return clean
    if z is None:
        raise UsageError("consistency sampling adds noise at every step but the last: pass noise")
    return add_noise(clean, z, step.level_prev)
