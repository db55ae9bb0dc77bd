"""Classifier-free guidance: one network call for all branches of a run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout


def guidance_halves(model: Model, guided: bool) -> tuple[str, ...]:
    """Halves of a network call: ("uncond", "cond") for classifier-free guidance, else ("cond",).

    A network that takes the guidance scale as an input needs no unconditional half.
    """
    return ("uncond", "cond") if guided and not model.takes_guidance else ("cond",)


def guided_output(
    model: Model, latents: Tensor, t: float | Sequence[float], condition: Condition, scales: Tensor, layout: Layout
) -> Tensor:
    """Network output after classifier-free guidance, shaped like the latents (branch, image, channels, height, width).

    One network call on the rows of the layout. Without an unconditional half, a network that takes the guidance scale
    as an input gets it.

    Reference: Ho & Salimans, 2022, https://arxiv.org/abs/2207.12598, Eq. 6, with w = 1 meaning off.

    Args:
        model: Any model.
        latents: (branch, image, channels, height, width).
        t: Timestep that the network is conditioned on; or one for each row of the layout.
        condition: One row for each row of the layout.
        scales: Guidance scale of each branch, (branch,).
        layout: The axes.
    """
    rows = layout.rows(latents.expand(len(layout.guidance), *latents.shape))
    if layout.guidance == ("cond",):
        condition = model.with_guidance(condition, scales.repeat_interleave(layout.images))
    return combined(layout.view(model.predict(rows, t, condition)), scales)


def classifier_free(
    model: Model, latents: Tensor, step: Step, condition: Condition, scales: Tensor, layout: Layout
) -> Tensor:
    """A `guide` of the loop: away from the negative condition by a row of its own, whatever the network takes.

    One that takes the guidance scale as an input is given 1, for that input knows no negative condition.
    """
    return guided_output(model, latents, step.time, condition, scales, layout)


def combined(output: Tensor, scales: Tensor) -> Tensor:
    """uncond + w (cond - uncond) of outputs (guidance, branch, image, ...) at scales (branch,), or cond alone."""
    cond = output[-1]
    if len(output) == 1:
        return cond
    uncond = output[0]
    return uncond + scales.view(-1, 1, 1, 1, 1) * (cond - uncond)
