"""Prompt-to-Prompt's control of a run, made from the prompts: which maps the edited branches take, where, how long.

Source: Hertz et al., 2022, https://arxiv.org/abs/2208.01626, section 3.2. Prompt-to-Prompt runs it from the first step;
methods that skip steps at the noisy end (CycleDiffusion, edit-friendly DDPM) run it from theirs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from sfumato.attention.blend import LocalBlend, Threshold
from sfumato.attention.cross import CrossAttentionEdit, CrossAttentionMaps, MapEdit, OneEach, Refine, Replace, Reweight
from sfumato.attention.inject import InjectSelfAttention
from sfumato.attention.patch import AttentionControl, AttentionEdit
from sfumato.attention.word_weights import word_weights
from sfumato.conditions import align
from sfumato.conditions.words import ReadOnce
from sfumato.errors import UsageError
from sfumato.models.base import Model, TextSide
from sfumato.models.prompt_syntax import plain_text
from sfumato.options import Option
from sfumato.sampling.shares import window_notes

MapEditKind = Literal["auto", "replace", "refine", "none"]

# Options of every method that offers this control; each gives its own default
CrossReplaceSteps = Annotated[
    align.Bounds | Mapping[str, align.Bounds],
    Option(
        "share of the steps, from the first, that use the source's cross-attention maps; higher keeps more of the"
        ' layout. A number, [start, end], or a table of words of the target prompt with "default_" for the others',
        low=0,
        high=1,
    ),
]
SelfReplaceSteps = Annotated[
    align.Bounds,
    Option(
        "share of the steps, from the first, that use the source's self-attention maps; higher keeps more of the"
        " shapes. A number, or [start, end]",
        low=0,
        high=1,
    ),
]
SelfReplaceSize = Annotated[
    int,
    Option(
        "largest width and height, in positions, of the layers whose self-attention maps are replaced; higher keeps"
        " finer shapes. All layers of models of one grid (Stable Diffusion 3, FLUX)",
        low=1,
    ),
]


@dataclass(frozen=True)
class PromptControl:
    """What a run is given.

    Attributes:
        control: For `sample(controls=[...])`; branch 0 is the source.
        maps: Adds up the cross-attention of the run, after the edits.
        blend: For `sample(on_step=[...])`, or None.
        notes: What of the prompts could not be understood as meant.
        prompts: The target prompts for the text encoder: their weights are the control's, see `word_weights`.
    """

    control: AttentionControl
    maps: CrossAttentionMaps
    blend: LocalBlend | None = None
    notes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def prompt_control(
    model: Model,
    source_prompt: str,
    target_prompts: Sequence[str],
    *,
    num_inference_steps: int,
    latent_size: tuple[int, int],
    start_index: int = 0,
    edit: MapEditKind = "auto",
    cross_replace_steps: align.Bounds | Mapping[str, align.Bounds] = 0.8,
    self_replace_steps: align.Bounds = 0.4,
    self_replace_size: int = 16,
    weights: Mapping[str, float] | None = None,
    blend_words: str | Sequence[str] | None = None,
    blend_threshold: Threshold = 0.3,
    blend_subtract_words: str | Sequence[str] | None = None,
    blend_start: float = 0.2,
    released: bool = False,
) -> PromptControl:
    """Builds the control of a run; see the options of `prompt_to_prompt` for what is not listed.

    Args:
        num_inference_steps: Steps of the whole grid. All shares are of these.
        latent_size: (height, width).
        start_index: First executed step; shares are counted from there.

    Raises:
        UsageError: Prompts, words or bounds do not fit one another.
    """
    text, targets, steps = ReadOnce(model.text), list(target_prompts), num_inference_steps
    written = [word_weights(text, source_prompt, target) for target in targets]
    prompts = tuple(targets)
    if released:  # looks words up in the text as it is
        source_prompt, targets = plain_text(source_prompt), [plain_text(target) for target in targets]
    _warn_long_prompts(text, [source_prompt, *targets])

    edits: list[AttentionEdit] = []
    factors = torch.stack([each.factors for each in written])
    map_edit = _map_edit(text, source_prompt, targets, edit, weights, factors, released)
    if map_edit is not None:
        alpha = align.replace_schedule(text, targets, steps, cross_replace_steps, released=released)
        alpha = torch.cat([alpha[:1].expand(start_index, *alpha.shape[1:]), alpha])  # row start_index comes first
        if alpha[start_index:steps].any():
            edits.append(CrossAttentionEdit(map_edit, alpha))
            prompts = tuple(each.prompt for each in written)
    start, end = (
        start_index + int(bound * steps) for bound in align.share_of_run(self_replace_steps, "self_replace_steps")
    )
    if start < end:
        limit = self_replace_size**2
        edits.append(InjectSelfAttention(lambda site: site.stage is None or site.positions <= limit, start, end))
    maps = CrossAttentionMaps()
    edits.append(maps)  # last: it sees the edited maps

    blend = _local_blend(
        text, maps, [source_prompt, *targets], blend_words, blend_subtract_words, blend_threshold,
        start_index + int(blend_start * steps), released,
    )  # fmt: skip
    notes = [*_share_notes(steps, map_edit, cross_replace_steps, self_replace_steps, blend, blend_start)]
    if not released and edit != "none":
        notes += _without_common_words(text, source_prompt, targets)
    return PromptControl(AttentionControl(edits), maps, blend, tuple(notes), prompts)


def _share_notes(
    steps: int,
    map_edit: MapEdit | None,
    cross_replace_steps: align.Bounds | Mapping[str, align.Bounds],
    self_replace_steps: align.Bounds,
    blend: LocalBlend | None,
    blend_start: float,
) -> Iterator[str]:
    """A note for each share of the run that is no step at all."""
    if map_edit is not None:
        name, each = "cross_replace_steps", cross_replace_steps
        table = {f"{name}[{word!r}]": each[word] for word in each} if isinstance(each, Mapping) else {name: each}
        yield from window_notes(steps, rows=steps + 1, **table)  # see `align.replace_schedule`
    yield from window_notes(steps, self_replace_steps=self_replace_steps)
    if blend is not None:
        yield from window_notes(steps, blend_start=blend_start)


def _map_edit(
    text: TextSide,
    source: str,
    targets: Sequence[str],
    edit: MapEditKind,
    weights: Mapping[str, float] | None,
    factors: torch.Tensor,
    released: bool,
) -> MapEdit | None:
    """The cross-attention edit that the prompts ask for; None when nothing is to be done.

    `factors`, (target, token), are the weights written in the targets; `weights` come on top.
    """
    each = [_word_edit(text, source, target, edit, released) for target in targets]
    inner = None if edit == "none" else _together([found for found in each if found is not None])
    if weights:
        outside = {word: weight for word, weight in weights.items() if not -2.0 <= weight <= 2.0}
        if outside and not released:
            warnings.warn(
                f"weights outside [-2, 2], the paper's range, tend to break the image: {outside}", stacklevel=4
            )
        factors = factors * align.equalizer(text, targets, weights, released=released)
    elif inner is None or bool((factors == 1.0).all()):
        return inner
    return Reweight(factors, inner)


def _word_edit(text: TextSide, source: str, target: str, edit: MapEditKind, released: bool) -> Replace | Refine | None:
    """The word swap or refinement of one target; "auto": a swap where words are exchanged for others and no more."""
    if edit == "auto" and released:
        edit = "replace" if len({len(align.words_of(p, released=True)) for p in (source, target)}) == 1 else "refine"
    elif edit == "auto":
        edit = "replace" if align.pairing_of(text, source, target).is_swap else "refine"
    if edit == "replace":
        return Replace(align.replace_mapper(text, source, target, released=released)[None])
    if edit == "refine":
        mapper, aligned = align.refine_mapper(text, source, target, released=released)
        return Refine(mapper[None], aligned[None])
    return None


def _together(edits: Sequence[Replace | Refine]) -> MapEdit:
    """The edits of all targets as one."""
    swaps = [edit for edit in edits if isinstance(edit, Replace)]
    refinements = [edit for edit in edits if isinstance(edit, Refine)]
    if not refinements:
        return Replace(torch.cat([edit.mapper for edit in swaps]))
    if not swaps:
        return Refine(
            torch.cat([edit.mapper for edit in refinements]), torch.cat([edit.aligned for edit in refinements])
        )
    return OneEach(tuple(edits))


def _without_common_words(text: TextSide, source: str, targets: Sequence[str]) -> Iterator[str]:
    """A note for each target that shares no word with the source, and is no swap of one word either."""
    for target in targets:
        found = align.pairing_of(text, source, target)
        if not found.kept and not found.is_swap:
            yield (
                f"the prompts have no word in common, so all words of the target count as new: {source!r}, {target!r};"
                " describe the whole image in both, such as 'a cat on a sofa' and 'a dog on a sofa', to keep more of it"
            )


def _local_blend(
    text: TextSide,
    maps: CrossAttentionMaps,
    prompts: Sequence[str],
    words: str | Sequence[str] | None,
    subtract: str | Sequence[str] | None,
    threshold: Threshold,
    start_index: int,
    released: bool,
) -> LocalBlend | None:
    if words is None:
        if subtract is not None:
            raise UsageError("blend_subtract_words needs blend_words: give both")
        return None

    def rows(given: str | Sequence[str], option: str) -> torch.Tensor:
        one_each = [given] * len(prompts) if isinstance(given, str) else list(given)
        if len(one_each) != len(prompts):
            raise UsageError(
                f"{option} needs one word for all, or one for each of {len(prompts)} prompts; got {one_each}"
            )
        return torch.stack(
            [align.indicator(text, p, [w], released=released) for p, w in zip(prompts, one_each, strict=True)]
        )

    maps.observes = False
    return LocalBlend(
        maps,
        rows(words, "blend_words"),
        threshold=threshold,
        subtract=None if subtract is None else rows(subtract, "blend_subtract_words"),
        start_index=start_index,
    )


def _warn_long_prompts(text: TextSide, prompts: Sequence[str]) -> None:
    for side in align.encoders_of(text):
        limit = align.room(side)
        for prompt in prompts:
            count = align.tokens_of_words(side, prompt)
            if count > limit:
                warnings.warn(
                    f"the prompt has {count} tokens; attention is edited for its first {limit} only:"
                    f" {prompt[:60]!r}...",
                    stacklevel=4,
                )
