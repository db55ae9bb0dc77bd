"""Plug-and-Play diffusion features (Tumanyan et al., 2022), https://arxiv.org/abs/2211.12572.

At each step the source's latents, read from its inversion, go through the same network call as the edited ones. These
take from it the features of one decoder layer and, from there on, its self-attention maps: what is where stays, while
the target prompt decides what it looks like.

Equals the authors' second release (github.com/MichalGeyer/pnp-diffusers) for a real picture. The paper and the first
release denoise the source once more and record it; the authors found reading the inversion faster and more accurate.
Differs from it: the fused attention kernel, since only queries and keys are exchanged; a drawn picture is denoised
along as a branch of its own, each guidance half of the target taking from the source's, as in the first release; a
sampling timestep that the inversion does not hold is an error that says so; other topologies than that of Stable
Diffusion 1.x and 2.x, see `attention.features.decoder_layers`. The first release's negative prompt, which grows over
the run (github.com/MichalGeyer/plug-and-play; not in the paper), is `negative_growth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.attention.features import InjectFeatures, decoder_layers
from sfumato.attention.inject import InjectSelfAttention
from sfumato.attention.patch import BOTH, AttentionControl
from sfumato.edits.branches import unused_embeddings
from sfumato.edits.result import LatentEdit
from sfumato.guidance.growing_negative import GrowingNegative, NegativeGrowth, negative_shares
from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators
from sfumato.sampling.layout import Branch, Control, Layout
from sfumato.sampling.loop import OnStep, sample
from sfumato.sampling.pin import PinSource
from sfumato.sampling.rows import Row, Rows
from sfumato.sampling.shares import window_notes
from sfumato.watch import Watch


@method(
    "plug-and-play",
    title="Plug-and-Play features",
    paper="Tumanyan et al., 2022, https://arxiv.org/abs/2211.12572",
    summary="Repaints the picture to a new prompt; features and self-attention of the source hold its layout.",
    when="Material, style or kind of thing should change while pose and composition stay; no word needs to be shared.",
    cost="3 evaluations a step with one target (2 at guidance 1), plus the inversion's; 4 for a drawn picture.",
    inversions=("direct", "ddim", "fixed-point", "regularised-ddim", "bdia", "null-text", "negative-prompt"),
    refuses={
        "edit-friendly": "its latents hold independent noise at every step, which the edited picture cannot follow",
        "dpm-encoder": "its latents hold fresh noise at every step, which the edited picture cannot follow",
    },
)
def plug_and_play(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str = "",
    guidance_scale: float = 7.5,
    source_guidance_scale: float | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    feature_threshold: Annotated[
        float, Option("share of the run that takes the source's features (what is where)", low=0, high=1)
    ] = 0.8,
    attention_threshold: Annotated[
        float, Option("share of the run that takes the source's self-attention (shapes)", low=0, high=1)
    ] = 0.5,
    sampling_steps: Annotated[
        int | None,
        Option(
            "steps of the edit where the inversion took more, e.g. 50 of 999; none: as many as the inversion", low=1
        ),
    ] = None,
    source_row: Annotated[
        Literal["empty", "prompt"], Option("what a real picture's features are computed with: no text, or its prompt")
    ] = "empty",
    negative_growth: Annotated[
        NegativeGrowth,
        Option(
            "how the negative prompt (the source prompt where none is given) takes the place of no text over the run;"
            " for silhouettes and abstract sources; none: it is there from the start"
        ),
    ] = "none",
    negative_start: Annotated[
        float, Option("the growing negative prompt's share at the first step", low=0, high=1)
    ] = 0.0,
) -> LatentEdit:
    """Edits from given noise, latent to latent.

    Costs 1 + 2 targets network evaluations a step and image for an inverted picture (1 + targets at guidance 1), and
    2 (1 + targets) for a drawn one (half of it when nothing is guided). A growing negative prompt costs 1 a target
    more, for a drawn picture 2.

    Args:
        model: Any model whose decoder has the stages that `decoder_layers` looks for.
        source: An inversion that keeps its trajectory, or drawn noise in an `Inversion`.
        source_prompt: What the picture shows; of a real one used only with source_row="prompt", and as the growing
            negative prompt where none is given.
        target_prompts: One or more edited prompts, done in one batch.
        negative_prompt: What guidance leads away from.
        guidance_scale: Of the edited branches.
        source_guidance_scale: Of a drawn source; None: as the edited ones. A real picture's row needs none.
        generator: Not used: nothing is drawn.
        on_step: Called after every step.
        watch: Progress, previews, cancellation.
        feature_threshold, attention_threshold, sampling_steps, source_row, negative_growth, negative_start: see their
            `Option`. The first release: "linear", from 0 for a real picture and 0.25 for a drawn one.

    Returns:
        Branches "source", "target" ("target-1", ... when several).

    Raises:
        InversionError: The inversion does not hold the timesteps of `sampling_steps`, or no trajectory.
        ModelError: The model has no such decoder stage.
    """
    targets = list(target_prompts)
    names = ("source", *(["target"] if len(targets) == 1 else [f"target-{k + 1}" for k in range(len(targets))]))
    timesteps = source.timesteps if sampling_steps is None else tuple(model.schedule.timesteps(sampling_steps))
    controls = injections(
        model,
        (source.noise.shape[-2], source.noise.shape[-1]),
        feature_steps=int(len(timesteps) * feature_threshold),
        attention_steps=int(len(timesteps) * attention_threshold),
    )
    notes = window_notes(len(timesteps), feature_threshold=feature_threshold, attention_threshold=attention_threshold)
    growing = negative_growth != "none" and guidance_scale != 1.0
    grown = GrowingNegative(negative_shares(negative_growth, negative_start, len(timesteps)), guidance_scale)
    away = source_prompt if growing and not negative_prompt else negative_prompt
    condition = model.encode_prompt([source_prompt, *targets, away, ""])
    negative, empty = condition[[-2]], condition[[-1]]

    if source.trajectory is None and sampling_steps is None:
        own = guidance_scale if source_guidance_scale is None else source_guidance_scale
        uncond = empty if growing else negative
        branches = {name: Branch(condition[[k]], uncond, guidance_scale if k else own) for k, name in enumerate(names)}
        if growing:
            branches |= {f"negative-{k}": Branch(negative, uncond, guidance_scale) for k in range(1, len(names))}
        latents = sample(
            model, source.noise, branches, timesteps=timesteps, controls=controls, on_step=on_step,
            guide=grown.guide if growing else None, watch=watch,
        )  # fmt: skip
        return LatentEdit(latents[: len(names)], names, notes=notes)

    pin = PinSource(source.latents_at, timesteps)
    rows = translation_rows(
        empty if source_row == "empty" else condition[[0]],
        negative if guidance_scale != 1.0 else None,
        [condition[[k]] for k in range(1, len(names))],
        empty=empty if growing else None,
    )

    def guide(model: Model, latents: Tensor, step: Step, _: Condition, scales: Tensor, layout: Layout) -> Tensor:
        output = rows.predict(model, latents, step.t)
        own, (*away, cond) = output[:1], output[1:].split(len(targets))
        return torch.cat([own, grown.guided(away[0], away[-1], cond, step) if away else cond])

    latents = sample(
        model,
        source.latents_at(timesteps[0]),
        {name: Branch(condition[[k]]) for k, name in enumerate(names)},
        timesteps=timesteps,
        controls=[rows.under(control) for control in controls],
        before_step=[pin],
        on_step=on_step,
        guide=guide,
        watch=watch,
    )
    return LatentEdit(latents, names, notes=(*unused_embeddings(source, "Plug-and-Play"), *notes))


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
