"""SDEdit (Meng et al., 2022), https://arxiv.org/abs/2108.01073: adds noise to the image and denoises it again.

The model changes what is unlikely under it; a text-to-image model, what does not fit the target prompt. The amount of
noise is the one trade-off: little keeps the image, much allows a larger edit.

Differs from the paper: a text-to-image model with guidance; any number of steps. `eta` 1 is the paper's stochastic
sampler (its Alg. 4, the variance-preserving SDE); 0 is the deterministic one of most "image to image" pipelines. A
latent consistency model runs all its steps below the noise that was added, by its own sampler, as in diffusers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.inversions.result import Inversion
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import add_noise
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.lcm import LCM
from sfumato.sampling.loop import Guide
from sfumato.sampling.shares import first_step, strength_notes, whole_steps


@edit_method(
    "sdedit",
    summary="Adds noise to the image and lets the model remove it under the target prompt.",
    when="A sketch, a collage or a bad rendering should look real; or as a baseline.",
    cost="2 evaluations a step that is run (1 at guidance 1), times repeats.",
    inversions=(),
)
def sdedit(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    strength: Annotated[
        float,
        Option(
            "noise to add, as share of the steps; lower keeps more of the image, 1 starts from noise", low=0, high=1
        ),
    ] = 0.6,
    eta: Annotated[
        float, Option("share of fresh noise at each step: 1 is the paper's sampler, 0 is deterministic", low=0, high=1)
    ] = 1.0,
    repeats: Annotated[
        int, Option("how often noise is added and removed; more look more real and keep less of the image", low=1)
    ] = 1,
) -> LatentEdit:
    """Adds noise to the images, and removes it under the target prompts.

    Costs 2 targets network evaluations a step that is run (int(strength steps) of all), half of it without guidance.

    Args:
        task: From latents of the images and a first noise, or from drawn noise, which is sampled first.
        noise: All draws in place of the generator's: for each repeat the first noise, then one a step that is run,
            (repeats (run steps + 1), image, channels, height, width); `source.noise` is not used then.
        strength, eta, repeats: See their `Option`.

    Raises:
        UsageError: An option out of range, or noise of another shape.
    """
    start, source = first_step(strength, task.num_steps), task.with_latents
    clean, notes = source.clean.to(task.model.device), strength_notes(strength, task.num_steps)
    edited, stepper = clean.expand(len(task.targets), *clean.shape), None
    if start == task.num_steps:
        return task.edited(edited, source=clean, notes=notes)
    first = source.noise if task.source is source else None
    if below := distilled_below(task, strength):
        start, notes = 0, fewer_steps(len(below), task.num_steps, strength)
        stepper = LCM() if eta == 1.0 else None
        task = replace(task, source=Inversion("picture", source.noise, below, trajectory=clean[None]))
    edited = renoised(
        task, edited, start_index=start, eta=eta, repeats=repeats, first_noise=first, noise=noise, stepper=stepper
    )
    return task.edited(edited, source=clean, notes=notes)


def distilled_below(task: EditTask, strength: float) -> tuple[int, ...]:
    """Times of a run of a latent consistency model that starts at a strength; none for any other model.

    All its steps are run, at timesteps of its distillation below that noise: as many as there are.
    """
    schedule = task.model.schedule
    if not isinstance(schedule, DiscreteVP) or schedule.spacing != "lcm":
        return ()
    share = max(strength, 1.0 / schedule.original_inference_steps)
    there = whole_steps(share, schedule.original_inference_steps)
    return tuple(schedule.timesteps(min(task.num_steps, there), strength=share))


def fewer_steps(count: int, asked: int, strength: float) -> tuple[str, ...]:
    """What there is to say where `distilled_below` gives fewer steps than were asked for."""
    few = f"the model was distilled at {count} timesteps below strength={strength:g}: {count} of {asked} steps are run"
    return () if count == asked else (few,)


def renoised(
    task: EditTask,
    latents: Tensor,
    *,
    start_index: int,
    eta: float,
    repeats: int = 1,
    first_noise: Tensor | None = None,
    noise: Tensor | None = None,
    guide: Guide | None = None,
    stepper: LCM | None = None,
) -> Tensor:
    """Adds noise up to the level of step `start_index`, and samples the targets from there; `repeats` times.

    Args:
        task: Its model, target prompts, steps, generator, hooks and watch.
        latents: Clean latents, (target, image, channels, height, width).
        start_index, eta, guide, stepper: See the sampling loop; a stepper takes no eta.
        repeats: At least 1.
        first_noise: First noise of the first repeat, (image, channels, height, width); None: drawn.
        noise: All draws, see `sdedit`.

    Returns:
        Clean latents, (target, image, channels, height, width).
    """
    timesteps = task.source.timesteps
    shape, run = latents.shape[1:], len(timesteps) - start_index
    level = task.model.schedule.steps(timesteps=timesteps)[start_index].level
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, got {repeats}")
    if noise is not None and noise.shape != (repeats * (run + 1), *shape):
        raise UsageError(
            f"noise must be {(repeats * (run + 1), *shape)}: {repeats} times a first noise and one for each of {run}"
            f" steps; got {tuple(noise.shape)}"
        )
    for repeat in range(repeats):
        replay = None
        if noise is not None:
            first, *_ = draws = noise[repeat * (run + 1) : (repeat + 1) * (run + 1)].to(latents)
            maps = torch.cat([latents.new_zeros(start_index, *shape), draws[1:]])
            replay = Inversion("given", first, timesteps, noise_maps=maps)
        elif repeat == 0 and first_noise is not None:
            first = first_noise.to(latents)
        else:
            first = draw_noise(shape, task.generator, latents)
        noisy = add_noise(latents, first, level)
        latents = task.sample(
            noisy, task.targets, start_index=start_index, replay=replay, eta=eta if stepper is None else 0.0,
            stepper=stepper, guide=guide,
        )  # fmt: skip
    return latents
