r"""Noise maps of latents less noisy than their timesteps say: the inversion of TurboEdit (Deutch et al., 2024).

As in edit-friendly inversion, every level is drawn by itself. In a run of few steps the noise maps of such latents look
like those of a noisier run, and the network cannot remove that any more. So here the latents x_i stand a stride below
the timestep t_i that network and step are conditioned on. The maps,

.. math:: z_i = x_{i+1} - \mu(x_i, t_i),

are kept as they are, not divided by a standard deviation: that of the last step, where DDPM adds no noise, holds what
is left of the image.

Reference: https://arxiv.org/abs/2408.00735. Differs from the authors' code (github.com/GiilDe/turbo-edit): any grid and
batch. Their four steps, at 799, 599, 399 and 199, are those of five trailing steps without the first: strength 0.8.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import Step, add_noise
from sfumato.options import Option
from sfumato.sampling.ddpm import ddpm_mean
from sfumato.sampling.draws import given_or_drawn
from sfumato.sampling.shares import first_step


@inversion(
    "shifted-edit-friendly",
    title="Shifted edit-friendly inversion",
    paper="Deutch et al., 2024, https://arxiv.org/abs/2408.00735",
    summary="Draws a version of the image at every step, less noisy than its timestep says, and keeps noise maps.",
    when="For TurboEdit, on a few-step model.",
    cost="1 evaluation a step.",
    serves_only="its latents are less noisy than their timesteps say, which only TurboEdit takes into account",
)
@torch.no_grad()
def shifted_edit_friendly(
    task: InversionTask,
    *,
    noise: Tensor | None = None,
    strength: Annotated[
        float, Option("share of the steps to invert; the first ones, at the noisy end, are left out", low=0, high=1)
    ] = 0.8,
    shift: Annotated[
        float, Option("steps by which latents are less noisy than their timesteps say; 0 is off", low=0, high=4)
    ] = 1.0,
) -> Inversion:
    """Draws latents at shifted levels and solves for the noise maps between them.

    Costs one network evaluation a step and image: nothing is guided, whatever the task's guidance.

    Args:
        task: What to invert; its generator makes the draws, all in one call, noisiest level first.
        noise: The draws instead, one for each level that holds noise, noisiest first,
            (levels, image, channels, height, width).
        strength, shift: See their `Option`.

    Returns:
        Latents at the first level; trajectory, clean first; noise maps of all steps, zero before the first.

    Raises:
        UsageError: An option is out of range, or the noise has another shape.
    """
    start = first_step(strength, len(task.steps), at_least=1)
    steps, clean = task.steps[start:], task.clean
    times = [shifted_time(step, shift) for step in steps]
    shape = (sum(time >= 0 for time in times), *clean.shape)
    drawn = iter(given_or_drawn(noise, shape, task.generator, clean, each="a level that holds noise"))
    schedule = task.model.schedule
    levels = [add_noise(clean, next(drawn), schedule.level(time)) if time >= 0 else clean for time in times]

    source, maps = task.source(1.0), [torch.zeros_like(clean)] * start
    for step, latents, target in task.over(list(zip(steps, levels, [*levels[1:], clean], strict=True))):
        prediction = source.predict(latents, step.time, step.level)
        maps.append(target - ddpm_mean(latents, prediction, step.level, step.level_prev))
    return task.unguided.inversion(
        "shifted-edit-friendly",
        levels[0],
        trajectory=torch.stack([clean, *reversed(levels)]),
        noise_maps=torch.stack(maps),
        unscaled_maps=True,
        start_index=start,
    )


def shifted_time(step: Step, shift: float) -> int:
    """The timestep whose level the latents of a step have, `shift` strides below its own; -1 for clean ones."""
    time = round(step.time - shift * (step.time - step.time_prev))
    return time if time > 0 else -1
