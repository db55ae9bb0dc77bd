"""Prompt-to-Prompt (Hertz et al., 2022), https://arxiv.org/abs/2208.01626.

Source and edited prompts are denoised together from one noise; the edited branches take the source's cross-attention
maps (the layout) during the first `cross_replace_steps` of the run, and its self-attention maps at low resolution
during `self_replace_steps`.

Differs from the authors' code (github.com/google/prompt-to-prompt, whose numbers `released=True` gives): tokens after a
changed word of another length are aligned with their own source tokens; words are found without regard to case and
punctuation, and a missing one is an error; the source branch of a real picture runs at guidance 1, so that it comes
back.
As there: the cross-attention schedule has N + 1 rows, chained re-weighting uses the outer schedule, re-weighting alone
scales the source's map, and maps are not re-normalised.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch

from sfumato.attention import align
from sfumato.attention.blend import LocalBlend
from sfumato.attention.cross import CrossAttentionEdit, CrossAttentionMaps, MapEdit, Refine, Replace, Reweight
from sfumato.attention.inject import InjectSelfAttention
from sfumato.attention.patch import AttentionControl, AttentionEdit
from sfumato.edit.result import Edited
from sfumato.errors import UsageError
from sfumato.inversion.result import Inversion
from sfumato.models.base import Model, Tokenizer
from sfumato.registry import Option, method
from sfumato.samplers.loop import Branch, OnStep, sample
from sfumato.samplers.watch import Watch

Kind = Literal["auto", "replace", "refine", "none"]


@method(
    "prompt-to-prompt",
    title="Prompt-to-Prompt",
    paper="Hertz et al., 2022, https://arxiv.org/abs/2208.01626",
    summary="Swaps, adds or re-weights words of the prompt while the picture's layout is held by its attention maps.",
    when="The edit can be said as a change of a few words, and the shape of things should stay.",
    cost="4 evaluations a step with one target (2 at guidance 1), plus the inversion's for a real picture.",
    inversions=("ddim",),
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
    generator: torch.Generator | None = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    edit: Annotated[
        Kind,
        Option(
            "replace: same number of words; refine: words added or removed; auto: whichever fits; none: weights only"
        ),
    ] = "auto",
    cross_replace_steps: Annotated[
        float | tuple[float, float] | Mapping[str, float | tuple[float, float]],
        Option(
            "share of the run that keeps the source's cross-attention (layout): a number, start and end, or per word"
            ' of the target with "default_" for the rest',
            low=0,
            high=1,
        ),
    ] = 0.8,
    self_replace_steps: Annotated[
        float | tuple[float, float],
        Option(
            "share of the run that keeps the source's self-attention (shape): a number, or start and end", low=0, high=1
        ),
    ] = 0.4,
    self_replace_size: Annotated[
        int, Option("self-attention is kept in layers of at most this many positions a side", low=1)
    ] = 16,
    weights: Annotated[
        Mapping[str, float] | None,
        Option("how strongly words of the target show: 1 = as is, 0 = not at all, below 0 = the opposite"),
    ] = None,
    blend_words: Annotated[
        str | Sequence[str] | None,
        Option("the edit shows only where these words look: one for all prompts, or one a prompt, the source's first"),
    ] = None,
    blend_threshold: Annotated[float, Option("how much of the words' attention counts as inside", low=0, high=1)] = 0.3,
    blend_subtract_words: Annotated[
        str | Sequence[str] | None, Option("like blend_words: places where the edit must not show")
    ] = None,
    blend_start: Annotated[float, Option("share of the run before blending begins", low=0, high=1)] = 0.2,
    released: Annotated[bool, Option("match the authors' released code, its alignment bug included")] = False,
) -> Edited:
    """Edits from given noise, latent to latent.

    Costs 2 (1 + targets) network evaluations a step and image, half of it when nothing is guided.

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
    steps = len(source.timesteps)
    names = ("source", *(["target"] if len(targets) == 1 else [f"target-{k + 1}" for k in range(len(targets))]))
    _warn_long_prompts(model.tokenizer, [source_prompt, *targets])

    edits: list[AttentionEdit] = []
    map_edit = _map_edit(model.tokenizer, source_prompt, targets, edit, weights, released)
    if map_edit is not None:
        alpha = align.replace_schedule(model.tokenizer, targets, steps, cross_replace_steps, released=released)
        if alpha[:steps].any():
            edits.append(CrossAttentionEdit(map_edit, alpha))
    start, end = align.share_of_run(self_replace_steps, "self_replace_steps")
    if int(start * steps) < int(end * steps):
        limit = self_replace_size**2
        edits.append(InjectSelfAttention(lambda site: site.num_queries <= limit, int(start * steps), int(end * steps)))
    maps = CrossAttentionMaps().choose(model.attention_sites((source.noise.shape[-2], source.noise.shape[-1])))
    edits.append(maps)  # last: it sees the edited maps

    blend = _local_blend(
        model.tokenizer, maps, [source_prompt, *targets], blend_words, blend_subtract_words, blend_threshold,
        int(blend_start * steps), released,
    )  # fmt: skip

    condition = model.encode_prompt([source_prompt, *targets, negative_prompt])
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
        eta=source.eta,
        replay=source,
        controls=[AttentionControl(edits)],
        on_step=[*([] if blend is None else [blend]), *on_step],
        watch=watch,
    )
    mask = None if blend is None else blend.mask
    return Edited(latents, names, maps.average, mask)


def _map_edit(
    tokenizer: Tokenizer,
    source: str,
    targets: Sequence[str],
    edit: Kind,
    weights: Mapping[str, float] | None,
    released: bool,
) -> MapEdit | None:
    """The cross-attention edit that the prompts ask for; None when nothing is to be done."""
    if edit == "auto":
        counts = {len(align.words_of(prompt)) for prompt in (source, *targets)}
        edit = "replace" if len(counts) == 1 else "refine"
    inner: MapEdit | None = None
    if edit == "replace":
        inner = Replace(torch.stack([align.replace_mapper(tokenizer, source, t, released=released) for t in targets]))
    elif edit == "refine":
        pairs = [align.refine_mapper(tokenizer, source, t, released=released) for t in targets]
        inner = Refine(torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs]))
    if weights:
        outside = {word: weight for word, weight in weights.items() if not -2.0 <= weight <= 2.0}
        if outside and not released:
            warnings.warn(
                f"weights outside [-2, 2], the paper's range, tend to break the picture: {outside}", stacklevel=3
            )
        return Reweight(align.equalizer(tokenizer, targets, weights, released=released), inner)
    return inner


def _local_blend(
    tokenizer: Tokenizer,
    maps: CrossAttentionMaps,
    prompts: Sequence[str],
    words: str | Sequence[str] | None,
    subtract: str | Sequence[str] | None,
    threshold: float,
    start_index: int,
    released: bool,
) -> LocalBlend | None:
    if words is None:
        if subtract is not None:
            raise UsageError("blend_subtract_words needs blend_words")
        return None

    def rows(given: str | Sequence[str], option: str) -> torch.Tensor:
        one_each = [given] * len(prompts) if isinstance(given, str) else list(given)
        if len(one_each) != len(prompts):
            raise UsageError(
                f"{option} needs one word for all, or one for each of {len(prompts)} prompts; got {one_each}"
            )
        return torch.stack(
            [align.indicator(tokenizer, p, [w], released=released) for p, w in zip(prompts, one_each, strict=True)]
        )

    return LocalBlend(
        maps,
        rows(words, "blend_words"),
        threshold=threshold,
        subtract=None if subtract is None else rows(subtract, "blend_subtract_words"),
        subtract_threshold=threshold,
        start_index=start_index,
    )


def _warn_long_prompts(tokenizer: Tokenizer, prompts: Sequence[str]) -> None:
    limit = tokenizer.max_words_tokens
    for prompt in prompts:
        count = len(tokenizer.ids(prompt))
        if count > limit:
            warnings.warn(
                f"the prompt has {count} tokens; attention is edited for its first {limit} only: {prompt[:60]!r}...",
                stacklevel=3,
            )
