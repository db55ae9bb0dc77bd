r"""FlowAlign (Kim et al., 2025), https://arxiv.org/abs/2505.23145: FlowEdit held to the image's own path.

With a fresh draw a step, q = (1 - \sigma) x + \sigma \epsilon and p = z + q - x, and guidance away from the source
prompt,

.. math:: v_p = v(p | src) + w (v(p | tar) - v(p | src)), \qquad
          z' = z + (\sigma' - \sigma)(v_p - v_q) + \zeta (\hat x_0^q - \hat x_0^p).

No empty prompt takes part. The last term is not in proportion to the step, so its weight grows with their number.

Differs from the authors' code: Stable Diffusion 3 alone there; here a network that takes the guidance scale as an input
(FLUX) is given 1 and guided the same way.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.models.schedules import add_noise
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.shares import Strength, first_step, strength_notes


@edit_method(
    "flowalign",
    summary="Follows the difference of two flows, guided away from the source prompt and held to the image's path.",
    when="As FlowEdit, where more of the structure must stay.",
    cost="3 evaluations a step that is run.",
    inversions=(),
    takes_mask=True,
    needs=("flow",),
)
def flowalign(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    strength: Strength = 1.0,
    hold: Annotated[
        float, Option("weight of the pull towards the image's own path, at each step; higher keeps more", low=0, high=1)
    ] = 0.01,
) -> LatentEdit:
    """Moves the images along the difference of two flows, held to their own.

    Args:
        task: From latents of the images, or from drawn noise, which is sampled first. Outside its mask the images stay.
        noise: A draw for each step that is run, in place of the generator's, (steps, image, channels, height, width).
        strength, hold: See their `Option`.

    Raises:
        UsageError: An option out of range, or not one draw for each step.
    """
    start, clean = first_step(strength, task.num_steps), task.with_latents.clean.to(task.model.device)
    steps = task.steps_from(start) if start < task.num_steps else []
    if noise is not None and len(noise) != len(steps):
        raise UsageError(f"noise must be one draw for each of {len(steps)} steps, got {len(noise)}")
    source, *targets = task.branches.values()
    away = {
        name: Branch(target.condition, source.condition, target.guidance_scale)
        for name, target in zip(task.names[1:], targets, strict=True)
    }
    branches = task.guided({"source": Branch(source.condition)} | away, steps, classifier_free=True)
    edited = clean.expand(len(targets), *clean.shape)
    with torch.no_grad():
        for k, step in enumerate(task.watch.over(steps)):
            draw = draw_noise(clean.shape, task.generator, clean) if noise is None else noise[k].to(clean)
            own = add_noise(clean, draw, step.level)[None]
            prediction = branches.predict(torch.cat([own, edited + own - clean]), step)
            velocity = prediction.eps - prediction.x0
            edited = edited + (step.level_prev.noise - step.level.noise) * (velocity[1:] - velocity[:1])
            edited = edited + hold * (prediction.x0[:1] - prediction.x0[1:])
            if task.mask is not None:
                edited = torch.where(task.mask.to(edited) > 0.5, edited, clean)
            task.watch.show(step.index, edited)
    return task.edited(edited, source=clean, notes=strength_notes(strength, task.num_steps))
