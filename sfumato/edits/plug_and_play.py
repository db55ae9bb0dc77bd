"""Plug-and-Play (Tumanyan et al., 2022), https://arxiv.org/abs/2211.12572: injects features and self-attention.

At each step the source's latents, read from its inversion, go through the same network call as the edited ones. The
edited ones take from it the features of one decoder layer and, from there on, its self-attention maps: the layout
stays, and the target prompt decides the look.

Equals the authors' second release (github.com/MichalGeyer/pnp-diffusers) for a real image. The paper and the first
release denoise the source once more and record it; the authors found reading the inversion faster and more accurate.

Differs from the authors' code: the fused attention kernel, since only queries and keys are exchanged; a generated image
is denoised as a branch of its own, and each guidance half of the target takes from the source's, as in the first
release; a sampling timestep that the inversion does not hold is an error; other networks than those of Stable Diffusion
1.x and 2.x, see `attention.features.decoder_layers`. The first release's negative prompt, which grows over the run
(github.com/MichalGeyer/plug-and-play; not in the paper), is `negative_growth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.attention.features import InjectFeatures, decoder_layers
from sfumato.attention.inject import InjectSelfAttention
from sfumato.attention.patch import BOTH, AttentionControl
from sfumato.edits.known_source import unused_embeddings
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.guidance.growing_negative import GrowingNegative, NegativeGrowth, negative_shares
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.layout import Branch, Control, Layout
from sfumato.sampling.pin import PinSource
from sfumato.sampling.rows import Row, Rows
from sfumato.sampling.shares import window_notes


@edit_method(
    "plug-and-play",
    title="Plug-and-Play features",
    summary="Denoises under the target prompt; features and self-attention of the source hold the layout.",
    when="Material, style or kind of thing should change while pose and composition stay; prompts need share no word.",
    cost="3 evaluations a step with one target (2 at guidance 1), plus the inversion's; 4 for a generated image.",
    needs=("decoder",),
    inversions=("direct", "ddim", "fixed-point", "regularised-ddim", "bdia", "null-text", "negative-prompt"),
    refuses={
        "edit-friendly": "its latents hold fresh noise at every step, and Plug-and-Play samples deterministically",
        "dpm-encoder": "its latents hold fresh noise at every step, and Plug-and-Play samples deterministically",
    },
    guidance_interval=False,
)
def plug_and_play(
    task: EditTask,
    *,
    feature_threshold: Annotated[
        float,
        Option(
            "share of the steps, from the first, that use the source's features; higher keeps more layout",
            low=0,
            high=1,
        ),
    ] = 0.8,
    attention_threshold: Annotated[
        float,
        Option(
            "share of the steps, from the first, that use the source's self-attention maps; higher keeps more of the"
            " shapes",
            low=0,
            high=1,
        ),
    ] = 0.5,
    sampling_steps: Annotated[
        int | None,
        Option("steps of the edit, if fewer than the inversion's, such as 50 of 999; none: the same", low=1),
    ] = None,
    source_row: Annotated[
        Literal["empty", "prompt"],
        Option("prompt with which a real image's features are computed: the empty one, or the source prompt"),
    ] = "empty",
    negative_growth: Annotated[
        NegativeGrowth,
        Option(
            "how the negative prompt (if there is none, the source prompt) replaces the empty prompt over the run; for"
            " silhouettes and abstract sources; none: it is used from the first step"
        ),
    ] = "none",
    negative_start: Annotated[
        float, Option("share of the negative prompt at the first step, with negative_growth", low=0, high=1)
    ] = 0.0,
) -> LatentEdit:
    """Denoises the targets with features and self-attention maps of the source.

    Costs 1 + 2 targets network evaluations a step and image for an inverted image (1 + targets at guidance 1), and
    2 (1 + targets) for a generated one (half of it when nothing is guided). A growing negative prompt costs 1 a target
    more, for a generated image 2.

    Args:
        task: From an inversion that keeps its trajectory, or drawn noise; the model's decoder has the stages that
            `decoder_layers` looks for. The source prompt of a real image is used only with source_row="prompt", and as
            the growing negative prompt where none is given; its row needs no guidance.
        feature_threshold, attention_threshold, sampling_steps, source_row, negative_growth, negative_start: See their
            `Option`. The first release: "linear", from 0 for a real image and 0.25 for a generated one.

    Raises:
        InversionError: The inversion does not hold the timesteps of `sampling_steps`, or no trajectory.
        ModelError: The model has no such decoder stage.
    """
    model, source, timesteps = task.model, task.source, task.source.timesteps
    if sampling_steps is not None:
        timesteps = tuple(model.schedule.timesteps(sampling_steps, latent_size=task.latent_size))
    controls = injections(
        model,
        task.latent_size,
        feature_steps=int(len(timesteps) * feature_threshold),
        attention_steps=int(len(timesteps) * attention_threshold),
    )
    notes = window_notes(len(timesteps), feature_threshold=feature_threshold, attention_threshold=attention_threshold)
    growing = negative_growth != "none" and task.guidance_scale != 1.0
    grown = GrowingNegative(negative_shares(negative_growth, negative_start, len(timesteps)), task.guidance_scale)
    if growing and not task.negative_prompt:
        task = replace(task, negative_prompt=task.source_prompt)

    if source.trajectory is None and sampling_steps is None:
        return task.edited(_with_generated_source(task, controls, grown if growing else None), notes=notes)
    latents = _with_inverted_source(task, controls, timesteps, source_row, grown, growing=growing)
    return task.edited(latents, notes=(*unused_embeddings(source, "Plug-and-Play"), *notes))


def _with_generated_source(task: EditTask, controls: Sequence[Control], grown: GrowingNegative | None) -> Tensor:
    """Latents of all branches, the source being denoised as one of them."""
    branches, targets = task.branches, range(1, 1 + len(task.target_prompts))
    if grown is not None:
        empty, negative = task.model.encode_prompt(""), task.condition[[-1]]
        branches = {name: replace(branch, negative=empty) for name, branch in branches.items()}
        branches |= {f"negative-{k}": Branch(negative, empty, task.guidance_scale) for k in targets}
    guide = None if grown is None else grown.guide
    return task.sample(task.source.noise, branches, controls=controls, guide=guide)[: 1 + len(targets)]


def _with_inverted_source(
    task: EditTask,
    controls: Sequence[Control],
    timesteps: Sequence[float],
    source_row: Literal["empty", "prompt"],
    grown: GrowingNegative,
    *,
    growing: bool,
) -> Tensor:
    """Latents of all branches, the source's of every step being read from its inversion."""
    source, condition, count = task.source, task.condition, len(task.target_prompts)
    own, targets = condition[[0]], [condition[[k]] for k in range(1, 1 + count)]
    empty = task.model.encode_prompt("")
    empty = empty.padded(own.tokens, empty)
    rows = translation_rows(
        empty if source_row == "empty" else own,
        condition[[-1]] if task.guidance_scale != 1.0 else None,
        targets,
        empty=empty if growing else None,
    )

    def translate(model: Model, latents: Tensor, step: Step, _: Condition, scales: Tensor, layout: Layout) -> Tensor:
        output = rows.predict(model, latents, step.time)
        own, (*away, cond) = output[:1], output[1:].split(count)
        return torch.cat([own, grown.guided(away[0], away[-1], cond, step) if away else cond])

    known = source.on_grid(timesteps)
    return task.sample(
        known.latents_at(0),
        {name: Branch(row) for name, row in zip(task.names, [own, *targets], strict=True)},
        timesteps=timesteps,
        start_index=0,
        controls=[rows.under(control) for control in controls],
        before_step=[PinSource(known.latents_at, 0, len(timesteps))],
        guide=translate,
    )


def translation_rows(
    source: Condition, negative: Condition | None, targets: Sequence[Condition], *, empty: Condition | None = None
) -> Rows:
    """The source's row; for each target an empty one, where given; for each a negative one (None: nothing is guided);
    then for each its own.
    """
    count = len(targets)
    kinds = {"empty": [empty] * count, "negative": [negative] * count, "target": targets}
    return Rows(
        [
            Row("source", 0, source),
            *(
                Row(f"{kind}-{k}", k, condition)
                for kind, conditions in kinds.items()
                for k, condition in enumerate(conditions, start=1)
                if condition is not None
            ),
        ]
    )


def injections(
    model: Model, latent_size: tuple[int, int], *, feature_steps: int, attention_steps: int
) -> list[Control]:
    """Both injections, each over the first so many steps; one that covers none is left out.

    Raises:
        ModelError: The model has no decoder stage to inject into.
    """
    layer, sites = decoder_layers(model, latent_size)
    chosen = {site.name for site in sites}
    controls: list[Control] = []
    if feature_steps > 0:
        controls.append(InjectFeatures([layer], 0, feature_steps))
    if attention_steps > 0:
        inject = InjectSelfAttention(lambda site: site.name in chosen, 0, attention_steps, guidance=BOTH)
        controls.append(AttentionControl([inject]))
    return controls
