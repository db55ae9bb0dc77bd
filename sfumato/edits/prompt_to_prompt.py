"""Prompt-to-Prompt (Hertz et al., 2022), https://arxiv.org/abs/2208.01626.

Source and edited prompts are denoised together from one noise; the edited branches take the source's cross-attention
maps (the layout) during the first `cross_replace_steps` of the run, and its self-attention maps at low resolution
during `self_replace_steps`.

Differs from the authors' code (github.com/google/prompt-to-prompt, whose numbers `released=True` gives): tokens after a
changed word of another length are aligned with their own source tokens; words are found without regard to case and
punctuation, and a missing one is an error; the source branch of a real picture is held to the path of its inversion
(`inversion="direct"`, the default), so that it comes back and the maps are the picture's own.
As there: the cross-attention schedule has N + 1 rows, chained re-weighting uses the outer schedule, re-weighting alone
scales the source's map, and maps are not re-normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from sfumato.attention.blend import Threshold
from sfumato.attention.prompt_control import (
    CrossReplaceSteps,
    MapEditKind,
    SelfReplaceSize,
    SelfReplaceSteps,
    prompt_control,
)
from sfumato.edits.result import LatentEdit
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import OnStep, sample
from sfumato.watch import Watch


@method(
    "prompt-to-prompt",
    title="Prompt-to-Prompt",
    paper="Hertz et al., 2022, https://arxiv.org/abs/2208.01626",
    summary="Swaps, adds or re-weights words of the prompt while the picture's layout is held by its attention maps.",
    when="The edit can be said as a change of a few words, and the shape of things should stay.",
    cost="3 evaluations a step with one target (4 with a guided source, 2 at guidance 1), plus the inversion's.",
    inversions=(
        "direct",
        "ddim",
        "negative-prompt",
        "null-text",
        "fixed-point",
        "bdia",
        "regularised-ddim",
        "edit-friendly",
        "dpm-encoder",
    ),
)
def prompt_to_prompt(
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
    edit: Annotated[
        MapEditKind,
        Option(
            "replace: words exchanged for others, one for one or for a phrase; refine: words added or removed; auto:"
            " whichever fits; none: weights only"
        ),
    ] = "auto",
    cross_replace_steps: CrossReplaceSteps = 0.8,
    self_replace_steps: SelfReplaceSteps = 0.4,
    self_replace_size: SelfReplaceSize = 16,
    weights: Annotated[
        Mapping[str, float] | None,
        Option("how strongly words of the target show: 1 = as is, 0 = not at all, below 0 = the opposite"),
    ] = None,
    blend_words: Annotated[
        str | Sequence[str] | None,
        Option("the edit shows only where these words look: one for all prompts, or one a prompt, the source's first"),
    ] = None,
    blend_threshold: Annotated[
        Threshold,
        Option(
            "how much of the words' attention counts as inside: one number, or two, the second for"
            " blend_subtract_words",
            low=0,
            high=1,
        ),
    ] = 0.3,
    blend_subtract_words: Annotated[
        str | Sequence[str] | None, Option("like blend_words: places where the edit must not show")
    ] = None,
    blend_start: Annotated[float, Option("share of the run before blending begins", low=0, high=1)] = 0.2,
    released: Annotated[bool, Option("match the authors' released code, its alignment bug included")] = False,
) -> LatentEdit:
    """Edits from given noise, latent to latent.

    Costs 2 network evaluations a step and image for each guided branch, and 1 for each other: 1 + 2 targets beside a
    source at guidance 1.

    Args:
        model: Any model with cross-attention on text.
        source: Noise and grid to start from: an inversion of a real picture, or drawn noise in an `Inversion`.
        source_prompt: What the picture shows.
        target_prompts: One or more edited prompts, done in one batch.
        negative_prompt: What guidance leads away from, in all branches.
        guidance_scale: Of the edited branches.
        source_guidance_scale: Of the source branch; None: as the edited ones.
        generator: Not used: nothing is drawn but what the inversion holds.
        on_step: Called after every step, after local blend.
        watch: Progress, previews, cancellation.
        edit, cross_replace_steps, self_replace_steps, self_replace_size, weights, blend_words, blend_threshold,
            blend_subtract_words, blend_start, released: see their `Option`.

    Returns:
        Branches "source", "target" ("target-1", ... when several).

    Raises:
        UsageError: Prompts, words or bounds do not fit one another.
        ModelError: An edit finds no attention layer to act on.
    """
    targets = list(target_prompts)
    names = ("source", *(["target"] if len(targets) == 1 else [f"target-{k + 1}" for k in range(len(targets))]))
    built = prompt_control(
        model, source_prompt, targets, num_inference_steps=len(source.timesteps), start_index=source.start_index,
        latent_size=(source.noise.shape[-2], source.noise.shape[-1]), edit=edit,
        cross_replace_steps=cross_replace_steps, self_replace_steps=self_replace_steps,
        self_replace_size=self_replace_size, weights=weights, blend_words=blend_words,
        blend_threshold=blend_threshold, blend_subtract_words=blend_subtract_words, blend_start=blend_start,
        released=released,
    )  # fmt: skip
    blend = built.blend

    condition = model.encode_prompt([source_prompt, *built.prompts, negative_prompt])
    negative = condition[[-1]]
    scales = [guidance_scale if source_guidance_scale is None else source_guidance_scale] + [guidance_scale] * len(
        targets
    )
    branches = {
        name: Branch(condition[[row]], negative, scale)
        for row, (name, scale) in enumerate(zip(names, scales, strict=True))
    }
    latents = sample(
        model,
        source.noise,
        branches,
        timesteps=source.timesteps,
        start_index=source.start_index,
        eta=source.eta,
        replay=source,
        controls=[built.control],
        on_step=[*([] if blend is None else [blend]), *on_step],
        watch=watch,
    )
    mask = None if blend is None else blend.mask
    return LatentEdit(latents, names, built.maps.average, mask, notes=built.notes)
