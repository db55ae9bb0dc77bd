"""Steppers of the sampling loop: from a prediction at one noise level to latents at the next."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from sfumato.models.schedules import Prediction, Step

State = TypeVar("State")
"""What a stepper remembers between steps; made by `init`, passed from step to step, never kept on the stepper."""


class Stepper(Protocol[State]):
    """A sampling rule. It holds options only, so one stepper serves any number of runs."""

    def init(self, latents: Tensor, first: Step) -> State:
        """The state before the first step.

        Args:
            latents: What the run starts from, (branch, image, channels, height, width).
            first: The step that comes first.

        Raises:
            SfumatoError: The rule cannot start there.
        """

    def stochastic(self, step: Step) -> bool:
        """Whether this step adds noise, so that the loop draws `z` for it."""

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: State, z: Tensor | None
    ) -> tuple[Tensor, State]:
        """Latents at the step's less noisy level, and the state for the step after.

        Args:
            latents: Latents at the step's own level, (..., channels, height, width).
            prediction: After guidance, shaped like the latents.
            step: Which step.
            state: What `init` or the step before returned.
            z: Standard normal draw, broadcastable to the latents; None where `stochastic` is false.
        """
