"""Prompt-to-Prompt (Hertz et al., 2022), https://arxiv.org/abs/2208.01626: edits with the source's attention maps.

Source and targets are denoised together from the same noise. The edited branches use the source's cross-attention maps
(the layout) during the first `cross_replace_steps` of the run, and its self-attention maps at low resolution during
`self_replace_steps`.

Differs from the authors' code (github.com/google/prompt-to-prompt, whose numbers `released=True` gives): tokens after a
changed word of another length are aligned with their own source tokens; words are found without regard to case and
punctuation, and a missing one is an error; the source branch of a real image is set to the latents of its inversion
(`inversion="direct"`, the default), so that it is reconstructed and the maps are the image's own.
Where image and text are one sequence (Stable Diffusion 3, FLUX), the maps are those parts of its map that are of image
to text, and of image to image; what the text attends to, and the values, stay the branch's own.
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
    summary="Swaps, adds or re-weights words of the prompt while the image's attention maps hold the layout.",
    when="The edit is a change of a few words of the prompt, and the shapes of things should stay.",
    cost="3 evaluations a step with one target (4 with a guided source, 2 at guidance 1), plus the inversion's.",
    needs=("text-maps",),
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
            "how the prompts differ: replace (words exchanged for others), refine (words added or removed), auto (the"
            " one that fits the prompts), none (weights only)"
        ),
    ] = "auto",
    cross_replace_steps: CrossReplaceSteps = 0.8,
    self_replace_steps: SelfReplaceSteps = 0.4,
    self_replace_size: SelfReplaceSize = 16,
    weights: Annotated[
        Mapping[str, float] | None,
        Option(
            "factors on the attention to words of the target prompt: above 1 stronger, below 1 weaker, 0 absent, below"
            " 0 the opposite"
        ),
    ] = None,
    blend_words: Annotated[
        str | Sequence[str] | None,
        Option(
            "limit the edit to where the attention to these words is high: one for all prompts, or a list with one for"
            " each, the source's first; none: no limit"
        ),
    ] = None,
    blend_threshold: Annotated[
        Threshold,
        Option(
            "attention that counts as inside, as share of the largest; lower makes a larger area. A number, or two, the"
            " second for blend_subtract_words",
            low=0,
            high=1,
        ),
    ] = 0.3,
    blend_subtract_words: Annotated[
        str | Sequence[str] | None,
        Option("keep the edit out of where the attention to these words is high; given as blend_words"),
    ] = None,
    blend_start: Annotated[
        float, Option("share of the steps before the edit is limited by blend_words", low=0, high=1)
    ] = 0.2,
    released: Annotated[
        bool, Option("give exactly the numbers of the authors' code, with its word-alignment bug")
    ] = False,
) -> LatentEdit:
    """Denoises source and targets together, the targets with the source's attention maps.

    Costs 2 network evaluations a step and image for each guided branch, and 1 for each other: 1 + 2 targets beside a
    source at guidance 1.

    Args:
        task: From any inversion, or drawn noise; the model's images look at text. Its hooks come after local blend.
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
