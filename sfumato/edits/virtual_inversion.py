"""Virtual inversion (Xu et al., 2023: InfEdit), https://arxiv.org/abs/2312.04965: an edit without an inversion.

Source and targets are denoised together by a sampler that adds fresh noise at every step, the same to all. The source's
clean latents are known, so that it needs no inversion and stays exact; each target is the image plus the difference
between the predictions for the two prompts (`sampling/virtual_inversion.py`). Four steps do on a latent consistency
model, which runs them all below the noise of `strength`, as in SDEdit; other models serve, too, at low guidance. With
Prompt-to-Prompt's attention control where words are exchanged.

Written from the paper (the authors' code, under CC BY-NC-ND, was not read). Its unified attention control has a third
branch for the layout and mutual self-attention, which are not here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.attention.prompt_control import CrossReplaceSteps, SelfReplaceSize, SelfReplaceSteps
from sfumato.edits.method import edit_method
from sfumato.edits.noise_map_replay import AttentionControlKind, PromptToPromptOptions
from sfumato.edits.result import LatentEdit
from sfumato.edits.sdedit import distilled_below, fewer_steps
from sfumato.edits.task import EditTask
from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Step, add_noise
from sfumato.options import Option
from sfumato.sampling.loop import OnStep
from sfumato.sampling.shares import Strength, first_step, strength_notes
from sfumato.sampling.virtual_inversion import VirtualInversion


@edit_method(
    "virtual-inversion",
    title="Virtual inversion (InfEdit)",
    paper="Xu et al., 2023, https://arxiv.org/abs/2312.04965",
    summary="Denoises source and target with the same fresh noise and adds the difference of the two to the image.",
    when="A fast edit of a real image, in four steps on a few-step model; nothing is inverted.",
    cost="3 evaluations a step that is run with one target (2 at guidance 1, 4 with a guided source).",
    inversions=(),
    guidance_scale=2.0,
)
def virtual_inversion(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    strength: Strength = 1.0,
    start: Annotated[
        Literal["image", "noise"],
        Option("first latents: image (with the noise of the first step) or noise alone, which changes more"),
    ] = "image",
    source_guidance: Annotated[
        float, Option("guidance scale of the source prompt; closer to the target's changes less", low=1, high=100)
    ] = 1.0,
    attention_control: AttentionControlKind = "none",
    cross_replace_steps: CrossReplaceSteps = 0.7,
    self_replace_steps: SelfReplaceSteps = 0.7,
    self_replace_size: SelfReplaceSize = 16,
) -> LatentEdit:
    """Denoises source and targets together, and edits by the difference of their predictions.

    Costs 1 network evaluation a step for the source and 2 a target, 1 where a branch is not guided.

    Args:
        task: From latents of the images, or from drawn noise, which is sampled first. Its generator draws the noise.
        noise: The draws, (run steps, image, channels, height, width), the first latents' first.
        strength, start, source_guidance, attention_control, cross_replace_steps, self_replace_steps,
            self_replace_size: See their `Option`; shares of the attention control are of all steps, counted from the
            first one that is run.

    Raises:
        UsageError: An option is out of range, or prompts do not fit one another.
        ModelError: The model has no attention layers that could be controlled.
    """
    first, source = first_step(strength, task.num_steps, at_least=1), task.with_latents
    clean, notes = source.clean.to(task.model.device), strength_notes(strength, task.num_steps)
    if strength < 1.0 and (below := distilled_below(task, strength)):
        first, notes = 0, fewer_steps(len(below), task.num_steps, strength)
        task = replace(task, source=Inversion("picture", source.noise, below, trajectory=clean[None]))
    control = PromptToPromptOptions(
        attention_control, cross_replace_steps, self_replace_steps, self_replace_size, released=False
    ).control(task, first)
    drawn, replay = (source.noise.to(clean), None) if noise is None else _given(noise.to(clean), first, task)
    level = task.model.schedule.steps(timesteps=task.source.timesteps)[first].level
    run = task if control is None else replace(task, target_prompts=control.prompts)
    branches = run.branches
    branches["source"] = replace(branches["source"], guidance_scale=task.limited(source_guidance))
    latents = run.sample(
        drawn if start == "noise" else add_noise(clean, drawn, level),
        branches,
        start_index=first,
        stepper=VirtualInversion(clean),
        replay=replay,
        controls=[] if control is None else [control.control],
        before_step=[] if task.mask is None else [same_noise_outside(task.mask)],
    )
    if control is None:
        return task.edited(latents, notes=notes)
    return task.edited(latents, maps=control.maps.average, notes=(*notes, *control.notes))


def same_noise_outside(mask: Tensor) -> OnStep:
    """A hook that gives all branches the source's latents outside a mask, noise and all, so that they agree there."""

    def called(latents: Tensor, step: Step) -> Tensor:
        inside = mask.to(latents.device) > 0.5
        return torch.cat([latents[:1], torch.where(inside, latents[1:], latents[:1])])

    return called


def _given(noise: Tensor, first: int, task: EditTask) -> tuple[Tensor, Inversion]:
    """The first draw, and a replay with one of the others for each step that adds noise."""
    before = noise.new_zeros(first, *noise.shape[1:])
    maps = torch.cat([before, noise[1:], torch.zeros_like(noise[:1])])
    return noise[0], Inversion("given", noise[0], tuple(task.source.timesteps), noise_maps=maps)
