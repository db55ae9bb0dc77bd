"""BDIA (Zhang et al., 2023), https://arxiv.org/abs/2307.10829: DDIM with one step of memory, which makes it invertible.

Each step also looks back: the same network output that carries the latents forward tells where they should have come
from, and what that misses of where they did come from is added. The new latents are linear in the latents one step
before, so these can be had back exactly from the two that followed (`inversions/bdia.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfumato.errors import InversionError, UsageError
from sfumato.models.schedules import Level, Prediction, Step
from sfumato.sampling.ddim import ddim_step

Before = tuple[Tensor, Level]
"""Latents of one step before, (..., channels, height, width), and their level."""


@dataclass(frozen=True, eq=False)
class BDIA:
    r"""A stepper of the sampling loop with one step of memory.

    .. math:: z_{i-1} = D_{i \to i-1}(z_i) + \gamma\,\bigl(z_{i+1} - D_{i \to i+1}(z_i)\bigr)

    D is the deterministic DDIM step with the noise predicted at z_i, to the less noisy level and back to the noisier
    one. The first step has no z_{i+1}: there the second term, the correction, is given.

    Reference: Zhang et al., 2023, section 4 (the update of BDIA-DDIM), with its terms collected.

    Attributes:
        gamma: Weight of the look back, in (0, 1].
        correction: Of the first step, broadcastable to the latents.

    Raises:
        UsageError: gamma is outside (0, 1].
    """

    gamma: float
    correction: Tensor

    def __post_init__(self) -> None:
        check_gamma(self.gamma)

    def init(self, latents: Tensor, first: Step) -> Before | None:
        """Nothing comes before the first step.

        Raises:
            InversionError: The run starts at a later step, for which the correction does not hold.
        """
        if first.index > 0:
            raise InversionError(
                "an exact inversion (bdia) is replayed from its first step on, not from step"
                f" {first.index + 1}: run all steps, or take another inversion"
            )
        return None

    def stochastic(self, step: Step) -> bool:
        return False

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: Before | None, z: Tensor | None
    ) -> tuple[Tensor, Before]:
        def towards(level: Level) -> Tensor:
            return ddim_step(prediction, step.level, level)

        if state is None:
            correction = self.correction.to(latents)
        else:
            before, level_before = state
            correction = self.gamma * (before - towards(level_before))
        return towards(step.level_prev) + correction, (latents, step.level)


def check_gamma(gamma: float) -> None:
    """Raises UsageError when gamma is outside (0, 1]; at 0 the rule is DDIM's and cannot be inverted."""
    if not 0.0 < gamma <= 1.0:
        raise UsageError(f"gamma must be in (0, 1], got {gamma:g}")
