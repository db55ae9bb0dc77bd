"""Prompt-to-Prompt (Hertz et al., 2022), https://arxiv.org/abs/2208.01626.

Source and edited prompts are denoised together from one noise; the edited branches take the source's cross-attention
maps (the layout) during the first `cross_replace_steps` of the run, and its self-attention maps at low resolution
during `self_replace_steps`.

Differs from the authors' code (github.com/google/prompt-to-prompt, whose numbers `released=True` gives): tokens after a
changed word of another length are aligned with their own source tokens; words are found without regard to case and
punctuation, and a missing one is an error; the source branch of a real image is held to the path of its inversion
(`inversion="direct"`, the default), so that it comes back and the maps are the image's own.
As there: the cross-attention schedule has N + 1 rows, chained re-weighting uses the outer schedule, re-weighting alone
scales the source's map, and maps are not re-normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from sfumato.attention.blend import Threshold
from sfumato.attention.prompt_control import (
    CrossReplaceSteps,
    MapEditKind,
    SelfReplaceSize,
    SelfReplaceSteps,
    prompt_control,
)
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.options import Option


@edit_method(
    "prompt-to-prompt",
    title="Prompt-to-Prompt",
    paper="Hertz et al., 2022, https://arxiv.org/abs/2208.01626",
    summary="Swaps, adds or re-weights words of the prompt while the image's layout is held by its attention maps.",
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
    task: EditTask,
    *,
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
    """Denoises source and targets together, the targets under the source's attention maps.

    Costs 2 network evaluations a step and image for each guided branch, and 1 for each other: 1 + 2 targets beside a
    source at guidance 1.

    Args:
        task: From any inversion, or drawn noise; the model has cross-attention on text. Its hooks come after local
            blend.
        edit, cross_replace_steps, self_replace_steps, self_replace_size, weights, blend_words, blend_threshold,
            blend_subtract_words, blend_start, released: See their `Option`.

    Returns:
        With the mean cross-attention of all branches, and with blend_words the mask of the last step.

    Raises:
        UsageError: Prompts, words or bounds do not fit one another.
        ModelError: An edit finds no attention layer to act on.
    """
    built = prompt_control(
        task.model, task.source_prompt, task.target_prompts, num_inference_steps=task.num_steps,
        start_index=task.source.start_index, latent_size=task.latent_size, edit=edit,
        cross_replace_steps=cross_replace_steps, self_replace_steps=self_replace_steps,
        self_replace_size=self_replace_size, weights=weights, blend_words=blend_words,
        blend_threshold=blend_threshold, blend_subtract_words=blend_subtract_words, blend_start=blend_start,
        released=released,
    )  # fmt: skip
    blend = built.blend
    latents = task.sample(
        branches=replace(task, target_prompts=built.prompts).branches,
        replay=task.source,
        controls=[built.control],
        on_step=[] if blend is None else [blend],
    )
    mask = None if blend is None else blend.mask
    return task.edited(latents, maps=built.maps.average, mask=mask, notes=built.notes)
