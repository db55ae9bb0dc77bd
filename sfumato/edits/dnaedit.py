r"""DNAEdit (Xie et al., 2025), https://arxiv.org/abs/2506.01430: noise aligned to the image instead of an inversion.

One draw of noise is corrected step by step until the straight line from the image to it agrees with the flow; what each
step corrected is put back while the target prompt is sampled:

    up, from a to b:   xi = x + (b - a) / (1 - a) (e - x);  u = v(xi, b | source);  d = (xi - x) / (b - a) - u
                       x = xi - (b - a) d;  e = e - (1 - a) d;  u and (b - a) d are kept
    down, to s' from s:   u' = v(z + (b - a) d, s | target);  r = r + (s' - s)(u' - u)
                          z = z + (s' - s)(m u' + (1 - m)(z - r) / s)

z starts as the aligned x, r as the image; r is where the edit would be without noise.

Differs from the authors' code: the source prompt is evaluated once a step (theirs evaluates it twice on Stable
Diffusion 3); the steps left out are given as `strength`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.branches import GuidedBranches
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.shares import Strength, first_step, strength_notes
from sfumato.watch import Watch


@edit_method(
    "dnaedit",
    summary="Aligns one draw of noise to the image, and samples the target prompt along the same corrections.",
    when="As FlowEdit, where both the edit and what stays should be better, at like cost.",
    cost="2 evaluations a step that is run (3 with classifier-free guidance).",
    inversions=(),
    needs=("flow",),
)
def dnaedit(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    strength: Strength = 0.85,
    follow: Annotated[
        float,
        Option(
            "weight of the target's velocity against the straight way to the edit so far; lower keeps more",
            low=0,
            high=1,
        ),
    ] = 0.8,
) -> LatentEdit:
    """Aligns noise to the images, and samples the targets from it.

    Args:
        task: From latents of the images and a first noise, or from drawn noise, which is sampled first.
        noise: The draw, in place of the generator's, (image, channels, height, width).
        strength, follow: See their `Option`.

    Raises:
        UsageError: An option out of range.
    """
    start, clean = first_step(strength, task.num_steps), task.with_latents.clean.to(task.model.device)
    if start == task.num_steps:
        return task.edited(clean.expand(len(task.targets), *clean.shape), source=clean)
    steps = task.steps_from(start)
    end = draw_noise(clean.shape, task.generator, clean) if noise is None else noise.to(clean)
    source = task.guided({"source": Branch(task.source_branch.condition)}, steps)
    targets = task.guided(task.targets, steps)
    with torch.no_grad():
        aligned = align(source, clean, end, steps, task.watch)
        latents = aligned.trajectory[-1]
        edited = latents.expand(len(task.targets), *latents.shape)
        clear = clean.expand_as(edited)
        for step in task.watch.over(steps):
            length = step.level_prev.noise - step.level.noise
            velocity = targets.output(edited + aligned.corrections[step.index], step)
            clear = clear + length * (velocity - aligned.velocities[step.index])
            straight = (edited - clear) / step.level.noise
            edited = task.after(edited + length * (follow * velocity + (1.0 - follow) * straight), step)
            task.watch.show(step.index, clear)
    return task.edited(edited, source=clean, notes=strength_notes(strength, task.num_steps))


@dataclass(frozen=True)
class Aligned:
    """An image's way to aligned noise.

    Attributes:
        trajectory: Latents, the clean ones first.
        velocities, corrections: u and (b - a) d of the step of an index.
    """

    trajectory: list[Tensor]
    velocities: Mapping[int, Tensor]
    corrections: Mapping[int, Tensor]


def align(source: GuidedBranches, clean: Tensor, noise: Tensor, steps: Sequence[Step], watch: Watch) -> Aligned:
    """Walks the steps upwards, and corrects the noise at each.

    Args:
        source: The source branch, without guidance.
        clean, noise: (image, channels, height, width).
        steps: Of the run, noisiest first.
        watch: Progress and cancellation.
    """
    trajectory, velocities, corrections = [clean], {}, {}
    for step in watch.over(steps[::-1]):
        a, b, latents = step.level_prev.noise, step.level.noise, trajectory[-1]
        probe = latents + (b - a) / (1.0 - a) * (noise - latents)
        velocity = source.output(probe[None], step)[0]
        miss = (probe - latents) / (b - a) - velocity
        trajectory.append(probe - (b - a) * miss)
        noise = noise - (1.0 - a) * miss
        velocities[step.index], corrections[step.index] = velocity, (b - a) * miss
    return Aligned(trajectory, velocities, corrections)
