r"""Attention interpolation (AID; He et al., 2024), https://arxiv.org/abs/2403.17924; with a guide prompt PAID.

Both ends and the frames are sampled together. In the first steps every attention layer of a frame at weight c reads the
keys and values of both ends (`attention/interpolate.py` has the four forms). A frame's noise lies between theirs on the
great circle; its embedding is on the straight line between theirs, or that of the guide prompt. Nothing is trained.

The ends are images: the authors start from random noise, here the images are inverted, and their rows are set to the
inversion's latents after every step. The guidance scale is interpolated too, from `end_guidance_scale` at the ends
(1, at which the inversion reconstructs them) to `guidance_scale` in the middle, so that there is no jump at the ends.
Stochastic inversions are made at the ends' guidance scale, and frames replay noise maps between those of the ends.

Differs from the authors' code: slerp of the whole tensor (`released`: of every row of the latents by itself); the ends
are run once, not once a frame, and their keys and values are kept, 4 GiB at most (beyond that the ends are rows of
every draw, which gives the same numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.attention.interpolate import END, START, InterpolatedAttention, InterpolationForm
from sfumato.attention.patch import AttentionControl
from sfumato.attention.record import Recorder
from sfumato.conditions.mixing import mixed_condition
from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.morphs.between_inversions import (
    KEPT_AT_MOST,
    as_branches,
    between,
    draw_between,
    tent,
)
from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.slerp import slerp
from sfumato.morphs.task import MorphTask
from sfumato.options import Option
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import OnStep, sample
from sfumato.sampling.shares import window_notes
from sfumato.watch import Watch


@morph_method(
    "attention-interpolation",
    title="Attention interpolation (AID, PAID)",
    paper="He et al., 2024, https://arxiv.org/abs/2403.17924",
    summary="Frames use the attention keys and values of both images at every step; nothing is trained.",
    when="Two images of different things, without training.",
    cost="4 evaluations a step to prepare, then 2 a step and frame.",
    spacing="beta",
)
def attention_interpolation(
    task: MorphTask,
    *,
    kind: Annotated[
        InterpolationForm,
        Option(
            "how keys and values of both images are used: inner (interpolated), outer (attended to separately, the"
            " results interpolated); fused-inner and fused-outer also use the frame's own"
        ),
    ] = "fused-outer",
    warmup_ratio: Annotated[
        float,
        Option("share of the steps, from the first, with interpolated attention; higher blends more", low=0, high=1),
    ] = 0.5,
    guide_prompt: Annotated[
        str | None, Option("prompt of all frames in between; none: interpolated from the prompts of both images")
    ] = None,
    inversion: Annotated[
        Literal["ddim", "fixed-point", "rf-solver", "fireflow", "regularised-ddim", "dpm-encoder", "edit-friendly"],
        Option("inversion of the two images"),
    ] = "ddim",
    end_guidance_scale: Annotated[
        float | None,
        Option(
            "guidance scale at the two images, from where it grows to that of the middle; none: 1, or that of the"
            " middle where the inversion corrects for guidance",
            low=1,
            high=100,
        ),
    ] = None,
    released: Annotated[
        bool, Option("interpolate every row of the latents by itself, as the authors' code does")
    ] = False,
) -> MorphPath:
    """Prepares frames whose attention lies between that of both images.

    Raises:
        UsageError: The guide prompt is empty.
    """
    if guide_prompt is not None and not guide_prompt.strip():
        raise UsageError("guide_prompt is empty: say what the frames should show, or leave it out")
    corrects = INVERSIONS[inversion].source_guidance_scale not in (None, 1.0)
    at_ends = end_guidance_scale or (task.guidance_scale if corrects else 1.0)
    ends = INVERSIONS[inversion].function(task.inversion(at_ends))
    guide = None if guide_prompt is None else task.model.encode_prompt(guide_prompt)
    warmup_steps, watch = int(warmup_ratio * task.num_inference_steps), task.frame_watch
    keeps = 0 < _kept_bytes(task.model, task.condition, ends.noise, warmup_steps) <= KEPT_AT_MOST
    kept = Recorder(spill=True) if keeps else None

    def run(weights: Sequence[float]) -> Tensor:
        return interpolated_frames(
            task.model, ends, task.condition, weights, negative=task.negative, guide=guide,
            guidance_scale=task.guidance_scale, end_guidance_scale=at_ends, kind=kind, warmup_steps=warmup_steps,
            released=released, kept=kept, watch=watch,
        )  # fmt: skip

    notes = window_notes(task.num_inference_steps, warmup_ratio=warmup_ratio)
    return MorphPath(draw_between(run, kept=keeps), notes=notes)


def interpolated_frames(
    model: Model,
    ends: Inversion,
    prompts: Condition,
    weights: Sequence[float],
    *,
    negative: Condition,
    guide: Condition | None = None,
    guidance_scale: float,
    end_guidance_scale: float | None = None,
    kind: InterpolationForm = "fused-outer",
    warmup_steps: int,
    released: bool = False,
    kept: Recorder | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Samples frames in one batch, the two ends first and last among them, or kept from an earlier run.

    Args:
        model: Any model with attention.
        ends: Noise and grid of the two ends, its images: inverted images, or drawn noise in an `Inversion`.
        prompts: Of the two ends, two rows.
        weights: Of the rows: 0.0 first and 1.0 last, or, where `kept` was filled by such a run, frames alone.
        negative: The negative prompt, one row.
        guide: Condition of all frames in place of the mixed prompt, one row.
        guidance_scale: In the middle.
        end_guidance_scale: At the ends; None: as in the middle.
        kind: Form of the attention.
        warmup_steps: Steps with interpolated attention.
        released: Walk the noise along each latent row by itself.
        kept: Keys and values of the ends.
        watch: Progress and cancellation.

    Returns:
        Clean latents, one a weight, (row, channels, height, width).
    """
    at_ends = guidance_scale if end_guidance_scale is None else end_guidance_scale
    conditions, branches = mixed_condition(prompts, weights), {}
    for k, weight in enumerate(weights):
        name = {0.0: START, 1.0: END}.get(weight, f"frame-{k}")
        condition = conditions[[k]] if guide is None or name in (START, END) else guide
        branches[name] = Branch(condition, negative, tent(weight, guidance_scale, at_ends))
    replay = as_branches(between(ends, weights))
    noise = replay.noise
    if released:
        first, second = ends.noise.split(1)
        noise = torch.stack([slerp(first, second, weight, dims=(-1,)) for weight in weights])
    controls = [AttentionControl([InterpolatedAttention(kind, weights, warmup_steps, kept=kept)])]
    latents = sample(
        model,
        noise,
        branches,
        timesteps=ends.timesteps,
        start_index=ends.start_index,
        eta=ends.eta,
        replay=replay,
        controls=controls if warmup_steps > 0 else [],
        on_step=[_ends_pinned_to(ends)] if ends.trajectory is not None and START in branches else [],
        watch=watch,
    )
    return latents[:, 0]


def _kept_bytes(model: Model, prompts: Condition, noise: Tensor, steps: int) -> int:
    """Size of both ends' keys and values at the steps with interpolated attention."""
    widths, tokens = model.attention_projections(), prompts.tokens
    sites = model.sites((noise.shape[-2], noise.shape[-1]))
    each = sum(widths[f"{site.name}.to_k"][1] * (tokens if site.kind == "cross" else site.positions) for site in sites)
    return 4 * each * steps * model.dtype.itemsize


def _ends_pinned_to(ends: Inversion) -> OnStep:
    """Sets the first and the last branch to the latents of the two inversions after every step."""

    def pin(latents: Tensor, step: Step) -> Tensor:
        known = ends.latents_at(step.index + 1).to(latents)
        return torch.cat([known[None, :1], latents[1:-1], known[None, 1:]])

    return pin
