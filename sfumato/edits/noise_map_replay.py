"""Editing by replaying noise maps under another prompt: what CycleDiffusion and edit-friendly DDPM editing share.

The source's latents at every step are known from the inversion. So without attention control the source needs no
network call but for its last step; with control it takes part in every call, set to its known latents each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sfumato.attention.prompt_control import prompt_control
from sfumato.conditions.align import Bounds
from sfumato.edits.result import LatentEdit
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.registry import Option
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import OnStep, sample
from sfumato.sampling.pin import PinSource
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch

ControlKind = Literal["none", "auto", "replace", "refine"]

# Options of both methods; each gives its own default
Strength = Annotated[
    float,
    Option("share of the steps that is run: small stays close to the picture, 0 is the picture itself", low=0, high=1),
]
SkipSteps = Annotated[int | None, Option("the same as a number of steps left out at the noisy end", low=0)]
AttentionControlKind = Annotated[
    ControlKind,
    Option(
        "also hold the picture's layout by its attention, as Prompt-to-Prompt: replace (words exchanged for others),"
        " refine (words added or removed), auto (whichever fits), none"
    ),
]
DrawnEta = Annotated[
    float,
    Option("of a drawn picture: how much fresh noise each step holds; a real one has its inversion's", low=0, high=1),
]


WITHOUT_NOISE_MAPS = dict.fromkeys(
    ("direct", "fixed-point", "bdia", "regularised-ddim", "null-text", "negative-prompt"),
    "it leads back without drawing noise, so that it keeps no noise maps, and these are what is replayed under the"
    " target prompt",
)
"""Why these inversions serve none of the methods that replay noise maps."""


@dataclass(frozen=True)
class Control:
    """Prompt-to-Prompt's options as these methods pass them on; see `prompt_control`."""

    edit: ControlKind
    cross_replace_steps: Any
    self_replace_steps: Bounds
    self_replace_size: int
    released: bool


def replay_edit(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str,
    guidance_scales: Sequence[float],
    start_index: int,
    control: Control | None = None,
    notes: Sequence[str] = (),
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
) -> LatentEdit:
    """Starts all targets from the source's latents at a step, and replays its noise maps under their prompts.

    Costs, for each of the n executed steps and each image, 2 network evaluations a target (1 when nothing is guided),
    and one row more (2 when the source is guided) at the last step for the source. With attention control
    the source takes part in every step, for as much.

    Args:
        model: Any model; with control one with cross-attention on text.
        source: Noise maps and trajectory, see `noise_map_inversion`.
        source_prompt, target_prompts, negative_prompt: As in every recipe.
        guidance_scales: One a target. The source's is the inversion's own.
        start_index: First step to execute, in [0, steps]; at `steps` nothing is run.
        notes: What there is to say already.
        control: Prompt-to-Prompt's, or None. Its shares are of all steps, counted from the first executed one.
        on_step: Called after every step with the source as branch 0.
        watch: Progress, previews, cancellation.

    Returns:
        Branches "source", "target" ("target-1", ... when several), with distances.

    Raises:
        InversionError: The inversion holds no noise maps, or none for so early a step.
        UsageError, ModelError: Of the control.
    """
    targets, steps = list(target_prompts), len(source.timesteps)
    names = ("source", *(["target"] if len(targets) == 1 else [f"target-{k + 1}" for k in range(len(targets))]))
    _check_start(source, start_index)
    built = None
    if control is not None:
        built = prompt_control(
            model, source_prompt, targets, num_inference_steps=steps, start_index=start_index,
            latent_size=(source.noise.shape[-2], source.noise.shape[-1]), edit=control.edit,
            cross_replace_steps=control.cross_replace_steps, self_replace_steps=control.self_replace_steps,
            self_replace_size=control.self_replace_size, released=control.released,
        )  # fmt: skip
    if start_index == steps:
        return LatentEdit(source.clean.expand(len(names), *source.clean.shape), names)

    condition = model.encode_prompt([source_prompt, *(targets if built is None else built.prompts), negative_prompt])
    negative = condition[[-1]]
    scales = [source.guidance_scale, *guidance_scales]
    branches = {
        name: Branch(condition[[row]], negative, scale)
        for row, (name, scale) in enumerate(zip(names, scales, strict=True))
    }
    own = {"source": branches["source"]} if built is not None else {}
    run = _Run(source, source_in_run=built is not None, on_step=on_step)
    executed = source.timesteps[start_index:]
    latents = sample(
        model,
        source.latents_at(executed[0]),
        own | {name: branch for name, branch in branches.items() if name != "source"},
        timesteps=source.timesteps,
        start_index=start_index,
        eta=source.eta,
        replay=source,
        controls=[] if built is None else [built.control],
        before_step=[] if built is None else [PinSource(source.latents_at, executed)],
        on_step=[run.after],
        watch=watch,
    )
    if built is None:
        end = sample(
            model, source.latents_at(executed[-1]), {"source": branches["source"]}, timesteps=source.timesteps,
            start_index=steps - 1, eta=source.eta, replay=source,
        )  # fmt: skip
        latents = torch.cat([end, latents])
    maps = None if built is None else built.maps.average
    notes = (*notes, *(() if built is None else built.notes))
    return LatentEdit(latents, names, maps, distances=torch.stack(run.distances), notes=notes)


def start_of(source: Inversion, strength: float, skip_steps: int | None) -> int:
    """First step to execute, in [0, steps]; at strength 0 there is none.

    Raises:
        UsageError: The strength is outside [0, 1], or more steps are skipped than there are.
    """
    steps = len(source.timesteps)
    if skip_steps is None:
        return first_step(strength, steps)
    if not 0 <= skip_steps <= steps:
        raise UsageError(f"skip_steps must be in [0, {steps}], got {skip_steps}")
    return skip_steps


def start_notes(source: Inversion, strength: float, skip_steps: int | None) -> tuple[str, ...]:
    """What there is to say of the first step, see `strength_notes`."""
    return () if skip_steps is not None else strength_notes(strength, len(source.timesteps))


def with_noise_maps(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    negative_prompt: str,
    source_guidance_scale: float,
    eta: float,
    generator: Generators,
    watch: Watch | None = None,
) -> Inversion:
    """The inversion itself; for drawn noise, the code of the picture that the model draws from it.

    A drawn one costs one network evaluation a step, two with guidance.

    Raises:
        InversionError: The inversion is of a real picture and keeps no noise maps, or was made at another guidance or
            with another prompt, under which the picture would not come back.
        UsageError: eta is 0.
    """
    if source.noise_maps is not None:
        _check_origin(source, source_prompt, source_guidance_scale)
        return source
    if source.trajectory is not None:
        raise InversionError(f"a {source.method} inversion keeps no noise maps: use 'dpm-encoder' or 'edit-friendly'")
    if eta <= 0.0:
        raise UsageError("eta=0 adds no noise, so there are no noise maps to share: use eta above 0")
    condition = model.encode_prompt([source_prompt, negative_prompt])
    shape = (len(source.timesteps), *source.noise.shape)
    maps = draw_noise(shape, generator, source.noise).to(model.device)
    code = replace(source, noise_maps=maps, eta=eta, guidance_scale=source_guidance_scale)
    trajectory = [source.noise.to(model.device)]

    def keep(latents: Tensor, step: Step) -> Tensor:
        trajectory.append(latents[0])
        return latents

    sample(
        model,
        source.noise,
        {"source": Branch(condition[[0]], condition[[1]], source_guidance_scale)},
        timesteps=source.timesteps,
        eta=eta,
        replay=code,
        on_step=[keep],
        watch=None if watch is None else watch.during("drawing"),
    )
    return replace(code, trajectory=torch.stack(trajectory[::-1]))


class _Run:
    """What happens after every step: the caller's hooks see all branches, and the distances are measured."""

    def __init__(self, source: Inversion, *, source_in_run: bool, on_step: Sequence[OnStep]) -> None:
        self.source, self.source_in_run, self.on_step = source, source_in_run, on_step
        self.distances: list[Tensor] = []  # (edit, image) each

    def after(self, latents: Tensor, step: Step) -> Tensor:
        known = self.source.latents_at(max(step.t_prev, -1)).to(latents)
        whole = latents if self.source_in_run else torch.cat([known[None], latents])
        for hook in self.on_step:
            whole = hook(whole, step)
        self.distances.append((whole[1:] - whole[:1]).flatten(2).norm(dim=2))
        return whole if self.source_in_run else whole[1:]


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


def _check_origin(source: Inversion, prompt: str, guidance_scale: float) -> None:
    if source.guidance_scale != guidance_scale:
        raise InversionError(
            f"the inversion was made at guidance {source.guidance_scale:g}; at source_guidance_scale={guidance_scale:g}"
            " its noise maps do not give the picture back: leave source_guidance_scale as it was, or invert again"
        )
    if (source.prompt or source.key) and source.prompt != prompt:  # latents given directly carry neither
        raise InversionError(
            f"the inversion was made with the prompt {source.prompt!r}, not {prompt!r}: use that one, or invert again"
        )
