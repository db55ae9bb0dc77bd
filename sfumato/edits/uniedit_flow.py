r"""UniEdit-Flow (Jiao et al., 2025), https://arxiv.org/abs/2504.13109: the target's flow where the prompts disagree.

At each step source and target prompt are asked at the same latents. With g = v_tar - v_src and a mask m of where |g| is
large, scaled to [0, 1],

.. math:: x' = x + (\sigma' - \sigma)\,[m v_{tar} + (1 - m) v_{src} + \omega (1 + m) g].

Differs from the authors' code, of which there are two: as in the one for FLUX, the mask is the mean of the absolute
difference, one value for 2 x 2 latents (`tokens`); the other takes the signed mean (`signed`). A difference that is the
same everywhere gives no mask instead of a division by 0.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.options import Option
from sfumato.sampling.layout import Branch
from sfumato.sampling.shares import Strength, first_step, strength_notes


@edit_method(
    "uniedit-flow",
    summary="Samples from the inversion, with the target's velocity where it differs from the source's.",
    when="As much of the image as possible should stay without a mask; needs no access to attention.",
    cost="2 evaluations a step that is run, plus the inversion's. No guidance.",
    inversions=("uni-inv", "ddim", "fixed-point"),
    needs=("flow",),
    refuses={
        **dict.fromkeys(("direct", "null-text", "negative-prompt", "bdia"), "it replays no source branch; use ddim"),
        **dict.fromkeys(("edit-friendly", "dpm-encoder"), "it belongs to a stochastic sampler"),
        "regularised-ddim": "it needs a diffusion's noise levels",
    },
    guidance_interval=False,
)
def uniedit_flow(
    task: EditTask,
    *,
    strength: Strength = 0.6,
    omega: Annotated[
        float, Option("weight of the difference between the prompts; higher changes more", low=0, high=100)
    ] = 5.0,
    tokens: Annotated[bool, Option("one value of the mask for 2 x 2 latents, as FLUX sees them")] = True,
    signed: Annotated[bool, Option("mask by the mean of the difference instead of its size")] = False,
) -> LatentEdit:
    """Samples the targets from the inverted latents at one step.

    Args:
        task: From an inversion with its trajectory, or from drawn noise, which is sampled first.
        strength, omega, tokens, signed: See their `Option`.

    Returns:
        With the mask of the last step.

    Raises:
        UsageError: An option out of range.
        InversionError: The inversion does not reach the step that is started from.
    """
    start, source = first_step(strength, task.num_steps), task.with_latents
    clean = source.clean.to(task.model.device)
    if start == task.num_steps:
        return task.edited(clean.expand(len(task.targets), *clean.shape), source=clean)
    steps, count = task.steps_from(start), len(task.targets)
    own = Branch(task.source_branch.condition)
    both = {f"source-{k}": own for k in range(count)}
    both |= {name: Branch(target.condition) for name, target in task.targets.items()}
    branches, mask = task.guided(both, steps), None
    latents = source.latents_at(start).to(clean)
    edited = latents.expand(count, *latents.shape)
    with torch.no_grad():
        for step in task.watch.over(steps):
            of_source, of_target = branches.output(torch.cat([edited, edited]), step).split(count)
            difference = of_target - of_source
            mask = where(difference, tokens=tokens, signed=signed)
            velocity = torch.lerp(of_source, of_target, mask) + omega * (1.0 + mask) * difference
            length = step.level_prev.noise - step.level.noise
            edited = task.after(edited + length * velocity, step)
            task.watch.show(step.index, edited)
    shown = None if mask is None else mask[:, :, 0]
    return task.edited(edited, source=clean, mask=shown, notes=strength_notes(strength, task.num_steps))


def where(difference: Tensor, *, tokens: bool, signed: bool) -> Tensor:
    """Where a difference is large, in [0, 1], (..., 1, height, width), of (..., channels, height, width)."""
    size = difference if signed else difference.abs()
    size = size.mean(dim=-3, keepdim=True).flatten(0, -4)
    if tokens:
        size = functional.avg_pool2d(size, 2)
    low, high = size.amin(dim=(-2, -1), keepdim=True), size.amax(dim=(-2, -1), keepdim=True)
    mask = (size - low) / (high - low).clamp(min=1e-12)
    if tokens:
        mask = mask.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    found: Tensor = mask.unflatten(0, difference.shape[:-3])
    return found
