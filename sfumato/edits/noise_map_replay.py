"""Replays noise maps under another prompt: what CycleDiffusion and edit-friendly DDPM editing share.

The source's latents at every step are known from the inversion. So without attention control the source needs no
network call but for its last step; with control it takes part in every call, set to its known latents each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sfumato.attention.prompt_control import PromptControl, prompt_control
from sfumato.conditions.align import Bounds
from sfumato.edits.known_source import with_source
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.pin import PinSource
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch

ControlKind = Literal["none", "auto", "replace", "refine"]

# Options of both methods; each gives its own default
Strength = Annotated[
    float,
    Option("share of the steps that are run; lower keeps more of the image, 0 returns it unchanged", low=0, high=1),
]
SkipSteps = Annotated[
    int | None, Option("number of steps to skip at the noisy end, in place of strength; none: as strength says", low=0)
]
AttentionControlKind = Annotated[
    ControlKind,
    Option(
        "also keep the layout by Prompt-to-Prompt's attention control: replace (words exchanged for others), refine"
        " (words added or removed), auto (the one that fits the prompts), none (off)"
    ),
]
DrawnEta = Annotated[
    float,
    Option(
        "share of fresh noise at each step, above 0, for a generated image; a real image has its inversion's eta",
        low=0,
        high=1,
    ),
]


WITHOUT_NOISE_MAPS = dict.fromkeys(
    ("direct", "fixed-point", "bdia", "regularised-ddim", "null-text", "negative-prompt"),
    "it draws no noise, so it has no noise maps, and these are what this method replays under the target prompt",
)
"""Why these inversions serve none of the methods that replay noise maps."""
WITHOUT_NOISE = "it has no noise maps: at eta 0 no step adds noise that could hold the image"
"""Why `ddim` serves none of those that start from the image's own noisy latents."""


@dataclass(frozen=True)
class PromptToPromptOptions:
    """Options of Prompt-to-Prompt as these methods pass them on; see `prompt_control`. With edit "none" it is off."""

    edit: ControlKind
    cross_replace_steps: Any
    self_replace_steps: Bounds
    self_replace_size: int
    released: bool

    def control(self, task: EditTask, start_index: int) -> PromptControl | None:
        """The control of a run from that step on; None where it is off."""
        if self.edit == "none":
            return None
        return prompt_control(
            task.model, task.source_prompt, task.target_prompts, num_inference_steps=task.num_steps,
            start_index=start_index, latent_size=task.latent_size, edit=self.edit,
            cross_replace_steps=self.cross_replace_steps, self_replace_steps=self.self_replace_steps,
            self_replace_size=self.self_replace_size, released=self.released,
        )  # fmt: skip


def replay_edit(
    task: EditTask,
    start_index: int,
    *,
    guidance_scales: Sequence[float] | None = None,
    control: PromptToPromptOptions | None = None,
    notes: Sequence[str] = (),
) -> LatentEdit:
    """Starts all targets from the source's latents at a step, and replays its noise maps under their prompts.

    Costs, for each of the n executed steps and each image, 2 network evaluations a target (1 when nothing is guided),
    and one row more (2 when the source is guided) at the last step for the source. With attention control
    the source takes part in every step, for as much.

    Args:
        task: From noise maps and a trajectory, see `with_noise_maps`; its hooks see the source as branch 0.
        start_index: First step to execute, in [0, steps]; at `steps` nothing is run.
        guidance_scales: One a target; None: the task's.
        control: Prompt-to-Prompt's; None: off. Its shares are of all steps, counted from the first executed one.
        notes: Notes of the recipe.

    Returns:
        Branches "source", "target" ("target-1", ... when several), with distances.

    Raises:
        InversionError: The inversion holds no noise maps, or none for so early a step.
        UsageError, ModelError: Of the control.
    """
    source = task.source
    _check_start(source, start_index)
    built = None if control is None else control.control(task, start_index)
    if start_index == task.num_steps:
        return task.edited(source.clean)

    branches = (task if built is None else replace(task, target_prompts=built.prompts)).branches
    if guidance_scales is not None:
        for name, scale in zip(task.names[1:], guidance_scales, strict=True):
            branches[name] = replace(branches[name], guidance_scale=task.limited(scale))
    alone = {"source": branches.pop("source")}
    distances: list[Tensor] = []  # (edit, image) each

    def measure(latents: Tensor, step: Step) -> Tensor:
        distances.append((latents[1:] - latents[:1]).flatten(2).norm(dim=2))
        return latents

    hooks = [*task.on_step, measure]
    if built is not None:
        latents = replace(task, on_step=hooks).sample(
            source.latents_at(start_index), alone | branches, start_index=start_index, replay=source,
            controls=[built.control], before_step=[PinSource(source.latents_at, start_index, task.num_steps)],
        )  # fmt: skip
        return task.edited(
            latents, maps=built.maps.average, distances=torch.stack(distances), notes=(*notes, *built.notes)
        )
    latents = replace(task, on_step=[with_source(source, hook) for hook in hooks]).sample(
        source.latents_at(start_index), branches, start_index=start_index, replay=source
    )
    return task.edited(
        latents, source=reconstructed(task, alone["source"]), distances=torch.stack(distances), notes=notes
    )


def reconstructed(task: EditTask, branch: Branch) -> Tensor:
    """The source as the last step of its replay makes it, (image, channels, height, width): the steps before it end at
    latents that the inversion holds. Costs one network evaluation an image, two with a guided source.
    """
    source, last = task.source, task.num_steps - 1
    alone = replace(task, on_step=(), watch=Watch())
    return alone.sample(source.latents_at(last), {"source": branch}, start_index=last, replay=source)[0]


def start_of(task: EditTask, strength: float, skip_steps: int | None = None) -> int:
    """First step to execute, in [0, steps]; at strength 0 there is none.

    Raises:
        UsageError: The strength is outside [0, 1], or more steps are skipped than there are.
    """
    if skip_steps is None:
        return first_step(strength, task.num_steps)
    if not 0 <= skip_steps <= task.num_steps:
        raise UsageError(f"skip_steps must be in [0, {task.num_steps}], got {skip_steps}")
    return skip_steps


def start_notes(task: EditTask, strength: float, skip_steps: int | None) -> tuple[str, ...]:
    """What there is to say of the first step, see `strength_notes`."""
    return () if skip_steps is not None else strength_notes(strength, task.num_steps)


def with_noise_maps(task: EditTask, *, eta: float) -> EditTask:
    """The task itself; from drawn noise, the task from the code of the images that the model draws from it.

    A generated image costs one network evaluation a step, two with guidance.

    Raises:
        InversionError: The inversion is of real images and keeps no noise maps, or was made at another guidance or
            with another prompt, under which the images would not be reconstructed.
        UsageError: eta is 0.
    """
    source = task.source
    if source.noise_maps is not None:
        check_origin(source, task.source_prompt, task.source_scale)
        return task
    if source.trajectory is not None:
        raise InversionError(f"a {source.method} inversion keeps no noise maps: use 'dpm-encoder' or 'edit-friendly'")
    if eta <= 0.0:
        raise UsageError("eta=0 adds no noise, so there are no noise maps to share: use eta above 0")
    maps = draw_noise((task.num_steps, *source.noise.shape), task.generator, source.noise).to(task.model.device)
    code = replace(source, noise_maps=maps, eta=eta, guidance_scale=task.source_scale)
    trajectory = [source.noise.to(task.model.device)]

    def keep(latents: Tensor, step: Step) -> Tensor:
        trajectory.append(latents[0])
        return latents

    drawing = replace(task, on_step=[keep], watch=task.watch.during("drawing"))
    drawing.sample(branches={"source": task.source_branch}, replay=code)
    return replace(task, source=replace(code, trajectory=torch.stack(trajectory[::-1])))


def _check_start(source: Inversion, start_index: int) -> None:
    if source.noise_maps is None or source.trajectory is None:
        raise InversionError(f"a {source.method} inversion keeps no noise maps: use 'dpm-encoder' or 'edit-friendly'")
    if start_index < source.start_index:
        steps = len(source.timesteps)
        raise InversionError(
            f"the edit runs {steps - start_index} of {steps} steps, the inversion holds the last"
            f" {steps - source.start_index}: lower the edit's strength to {1 - source.start_index / steps:g}, or invert"
            " with more"
        )


def fits_origin(task: EditTask) -> bool:
    """Whether the noise maps of the source reconstruct the image at the task's prompts and guidance."""
    source, scale = task.source, task.source_scale
    known = bool(source.prompt or source.key)
    same_negative = scale == 1.0 or not known or source.negative_prompt == task.negative_prompt
    return same_negative and _misfit(source, task.source_prompt, scale) is None


def check_origin(source: Inversion, prompt: str, guidance_scale: float) -> None:
    if (misfit := _misfit(source, prompt, guidance_scale)) is not None:
        raise InversionError(misfit)


def _misfit(source: Inversion, prompt: str, guidance_scale: float) -> str | None:
    """What keeps noise maps from reconstructing the image; None: nothing."""
    if source.guidance_scale != guidance_scale:
        return (
            f"the inversion was made at guidance {source.guidance_scale:g}; at source_guidance_scale={guidance_scale:g}"
            " its noise maps do not reconstruct the image: leave source_guidance_scale as it was, or invert again"
        )
    if (source.prompt or source.key) and source.prompt != prompt:  # latents given directly carry neither
        return (
            f"the inversion was made with the prompt {source.prompt!r}, not {prompt!r}: use that one, or invert again"
        )
    return None
