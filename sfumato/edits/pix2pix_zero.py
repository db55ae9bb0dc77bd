"""pix2pix-zero (Parmar et al., 2023), https://arxiv.org/abs/2302.03027: edits along a direction of the text embedding.

An edit direction is added to the embedding of the source prompt. Before each step of the edited branch its latents are
moved down the gradient of the distance between its cross-attention maps and those of the source branch at the same
step, so that the layout stays.

Differs from the paper: the direction is the difference of the two prompts' embeddings, position by position, where the
paper takes the mean over many sentences with the words that differ (`sentences="templates"`, or sentences of your own
with `sfumato direction make`). A mean over sentences of other lengths fits the positions of the words in this prompt
less well (docs/benchmarks.md). It is of use where the same edit is wanted for many images.

Differs from the authors' code (github.com/pix2pixzero/pix2pix-zero):

- The negative prompt is the empty one for real images too, where theirs is the caption of the image
  (`caption_as_negative`). With the caption guidance amplifies the direction alone, beyond the target: colours saturate
  at the model's usual scale.
- Both branches are denoised together, so that only one step's maps of the source are kept, where theirs keeps all.
- Self-attention stays in the fused kernel, also in the backward pass; every image of a batch has its own loss.
- Three quirks of theirs are options: its step starts from the negative row of the moved latents (`update="released"`;
  in the paper's algorithm box only the network sees the moved latents), its direction goes to the second row of the
  batch, which guidance 1 does not have (`direction_row="second"`: no edit then), and its inversion takes fewer steps
  (`grid="released"` of the inversion).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch

from sfumato.conditions.directions import Direction, direction_between, make_direction
from sfumato.conditions.sentences import changed_words
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.guidance.attention_maps import CrossAttentionGuidance, Pull, Update
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.prompt_syntax import plain_text, read_prompt
from sfumato.options import Option
from sfumato.sampling.layout import Branch

Given = Direction | str | Path


@edit_method(
    "pix2pix-zero",
    summary="Moves the text embedding along a direction such as cat -> dog while attention maps hold the layout.",
    when="One kind of thing should become another, and the same edit is wanted for many images.",
    cost="6 evaluations and a backward pass a step (5 with the caption as the negative prompt, 3 at guidance 1), plus"
    " the inversion's for a real image.",
    needs=("cross-attention",),
    inversions=("regularised-ddim", "ddim", "fixed-point", "direct", "negative-prompt", "null-text", "bdia"),
    refuses=dict.fromkeys(
        ("dpm-encoder", "edit-friendly"),
        "its noise maps hold the layout by themselves, and pix2pix-zero samples without noise maps",
    ),
    guidance_interval=False,
    cache_interval=False,
)
def pix2pix_zero(
    task: EditTask,
    *,
    observe: Callable[[Pull], None] | None = None,
    direction: Annotated[
        Given | Sequence[Given] | None,
        Option(
            "file of `sfumato direction make`, or a list with one file for each target prompt; none: made from the"
            " prompts"
        ),
    ] = None,
    direction_scale: Annotated[
        float, Option("factor on the direction; higher edits more, below 0 in the opposite direction", low=-10, high=10)
    ] = 1.0,
    sentences: Annotated[
        Literal["prompts", "templates"],
        Option(
            "what the direction is made from: prompts (the two prompts), or templates (many sentences with the words"
            " that differ, as in the paper)"
        ),
    ] = "prompts",
    attention_guidance: Annotated[
        float | None,
        Option(
            "step size along the gradient of the attention maps; higher keeps more of the layout, 0 is off; none: by"
            " the size of the latents, 0.1 at 64x64, 1.6 at 16x16, a tenth of it for a model that predicts velocity",
            low=0,
            high=1000,
        ),
    ] = None,
    caption_as_negative: Annotated[
        bool,
        Option("use the source prompt as the negative prompt, as the authors' code does; needs a low guidance scale"),
    ] = False,
    update: Annotated[
        Update,
        Option(
            "latents that a step starts from: paper (as they were before the gradient step), or released (after it, as"
            " in the authors' code)"
        ),
    ] = "paper",
    direction_row: Annotated[
        Literal["positive", "second"],
        Option(
            "row that the direction is added to: positive (the target's), or second (as in the authors' code, where"
            " guidance 1 then gives no edit)"
        ),
    ] = "positive",
) -> LatentEdit:
    """Denoises source and targets together, the targets under the source's prompt moved along their directions.

    Costs 2 + 4 targets network evaluations a step and image, 1 + 4 targets where the negative prompt is the source's,
    1 + 2 targets where nothing is guided, and a backward pass on the edited rows. Without attention guidance 2 targets
    (1 unguided) fewer, and no backward pass.

    Args:
        task: From an inversion, or drawn noise; the model has cross-attention on text. Where `direction` is given, only
            the number of target prompts matters. See also `caption_as_negative` for its negative prompt.
        observe: Called at every step with what held the edit, where anything did.
        direction, direction_scale, sentences, attention_guidance, caption_as_negative, update, direction_row: See
            their `Option`.

    Returns:
        With the mean cross-attention of the branches; that of a target is by the tokens of its own prompt where the
        direction is made from the prompts, else by those of the source.

    Raises:
        UsageError: Directions that do not match the targets in number; a negative prompt besides the caption.
        DirectionError: A direction is missing, damaged or of another text encoder.
        ModelError: The model has no cross-attention.
    """
    model, source, scale = task.model, task.source, task.guidance_scale
    _check_negative(source, task.negative_prompt, caption_as_negative)
    directions = _directions(model, task.source_prompt, list(task.target_prompts), direction, sentences)

    caption = model.encode_prompt(task.source_prompt)
    negative = caption if caption_as_negative else model.encode_prompt(task.negative_prompt)
    branches = {"source": Branch(caption, negative, 1.0 if caption_as_negative else task.source_scale)}
    no_edit = direction_row == "second" and scale == 1.0
    for name, way in zip(task.names[1:], directions, strict=True):
        moved = caption if way is None or no_edit else way.apply(caption, direction_scale)
        branches[name] = Branch(moved, negative, scale)

    amount = _usual_amount(model, source.noise) if attention_guidance is None else attention_guidance
    guidance = CrossAttentionGuidance(amount, shared=caption_as_negative, update=update, observe=observe)
    latents = task.sample(branches=branches, replay=source, controls=[guidance], guide=guidance)
    return task.edited(latents, maps=guidance.average)


def _usual_amount(model: Model, noise: torch.Tensor) -> float:
    """The authors' 0.1 at 64 x 64; the loss is a sum over positions, so smaller latents need more."""
    usual = 0.01 if model.schedule.target == "velocity" else 0.1
    return usual * 64 * 64 / (noise.shape[-2] * noise.shape[-1])


def _check_negative(source: Inversion, negative_prompt: str, caption_as_negative: bool) -> None:
    if caption_as_negative and negative_prompt:
        raise UsageError("caption_as_negative makes the source prompt the negative prompt: leave out negative_prompt")
    if caption_as_negative and source.null_embeds is not None:
        raise UsageError(f"a {source.method} inversion has its own negative embeddings: leave out caption_as_negative")


def _directions(
    model: Model,
    source_prompt: str,
    targets: Sequence[str],
    given: Given | Sequence[Given] | None,
    sentences: Literal["prompts", "templates"],
) -> list[Direction | None]:
    """One direction a target, checked against the model; None where the prompts do not differ."""
    if given is None:
        return [_between(model, source_prompt, target, sentences) for target in targets]
    one_each = [given] if isinstance(given, Direction | str | Path) else list(given)
    if len(one_each) != len(targets):
        raise UsageError(f"direction needs one for each of {len(targets)} target prompts, got {len(one_each)}")
    found = [way if isinstance(way, Direction) else Direction.load(way) for way in one_each]
    for way in found:
        way.check(model)
    return list(found)


def _between(
    model: Model, source_prompt: str, target_prompt: str, sentences: Literal["prompts", "templates"]
) -> Direction | None:
    words = changed_words(source_prompt, target_prompt)
    if words == ("", ""):
        if read_prompt(source_prompt).parts == read_prompt(target_prompt).parts:
            return None
        words = plain_text(source_prompt), plain_text(target_prompt)  # their weights alone differ
    elif sentences == "templates":
        return make_direction(model, *words)
    return direction_between(model, [source_prompt], [target_prompt], source=words[0], target=words[1])
