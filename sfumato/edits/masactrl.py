"""MasaCtrl (Cao et al., 2023), https://arxiv.org/abs/2304.08465: mutual self-attention from target to source.

Source and target are denoised together. After a few steps, in the decoder's finer layers, the target's self-attention
uses its own queries but the source's keys and values: layout and pose come from the target prompt, the look from the
source. Cross-attention is not changed.

Differs from the authors' code (github.com/TencentARC/MasaCtrl, whose numbers `pin_source=False` gives): before every
network call the source's latents are those of its inversion (theirs: an argument that is off, though the published
figures used it); works without guidance, where theirs silently does nothing; steps and layers are never counted, so no
number of steps is built in; masked attention is one fused call; masks from words add up over the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.mutual import MutualSelfAttention, Regions, WordRegions
from sfumato.attention.patch import AttentionControl, AttentionEdit
from sfumato.conditions import align
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import sites_of_kind
from sfumato.models.base import Model
from sfumato.options import Option
from sfumato.sampling.pin import PinSource

NO_LAYOUT = (
    "start_step is 4 of every 50 steps; with {} steps it is 0, so the source's layout stays: use 13 steps or more, or"
    " give start_step so that the target's own layout can form first"
)


@edit_method(
    "masactrl",
    summary="Changes pose or layout to the target prompt while the look is taken from the source.",
    when="The same thing should do something else (sit, jump, face left); not where the layout must stay.",
    cost="4 evaluations a step with one target (3 with an empty source prompt, 2 at guidance 1), plus the inversion's.",
    needs=("decoder",),
    inversions=(
        "direct",
        "ddim",
        "fixed-point",
        "negative-prompt",
        "null-text",
        "edit-friendly",
        "dpm-encoder",
        "regularised-ddim",
        "bdia",
    ),
    takes_mask=True,
    cache_interval=False,
)
def masactrl(
    task: EditTask,
    *,
    start_step: Annotated[
        int | None,
        Option(
            "first step, from 0, that takes keys and values from the source; later gives the target's own layout more"
            " steps to form; none: 4 of every 50 steps",
            low=0,
        ),
    ] = None,
    start_layer: Annotated[
        int | None,
        Option(
            "first self-attention layer, in execution order from 0, that takes keys and values from the source; none:"
            " the decoder's layers at half the latents' resolution or finer (from 10 of 16 in Stable Diffusion 1.x)",
            low=0,
        ),
    ] = None,
    steps: Annotated[Sequence[int] | None, Option("list of steps; none: all from start_step on", low=0)] = None,
    layers: Annotated[Sequence[int] | None, Option("list of layers; none: all from start_layer on", low=0)] = None,
    union: Annotated[bool, Option("use the target's own keys and values too, beside the source's")] = False,
    foreground_words: Annotated[
        str | Sequence[str] | None,
        Option(
            "word of the foreground, for all prompts or one each, the source's first: foreground then reads only"
            " foreground, and background only background; none: no such separation"
        ),
    ] = None,
    foreground_threshold: Annotated[
        float,
        Option(
            "attention, scaled to [0, 1], that counts as foreground; lower makes the foreground larger", low=0, high=1
        ),
    ] = 0.1,
    foreground_mask: Annotated[
        bool, Option("separate foreground and background, as foreground_words does, by the mask of the edit")
    ] = False,
    pin_source: Annotated[
        bool, Option("set the source branch to the inversion's latents at every step, so that it does not drift")
    ] = True,
    masks: Tensor | None = None,
) -> LatentEdit:
    """Denoises source and targets together, the targets reading the source's keys and values.

    Costs 2 (1 + targets) network evaluations a step and image, half of it when nothing is guided. A source at guidance
    1 costs 1 where its prompt is the negative prompt, such as "" for both; else targets read its unconditional row.

    Args:
        task: From any inversion, or drawn noise; the model has self-attention in its decoder. The authors use "" as the
            source prompt of real images, in the inversion and here. Its mask is read with foreground_mask only, as a
            region that may change need not be the outline of a thing.
        start_step, start_layer, steps, layers, union, foreground_words, foreground_threshold, foreground_mask,
            pin_source: See their `Option`.
        masks: Foreground of each branch, source first, instead of foreground_words: (branch, image, height, width),
            above 0.5 inside.

    Returns:
        With the mean cross-attention when foreground_words are given.

    Raises:
        UsageError: A step or layer that the run or the model does not have; words or masks that do not fit.
        ModelError: The model has no self-attention layer to act on.
    """
    source, prompts = task.source, [task.source_prompt, *task.target_prompts]
    images = source.noise.shape[-4]
    maps = CrossAttentionMaps() if foreground_words is not None else None
    if foreground_mask:
        if task.mask is None:
            raise UsageError("foreground_mask needs a mask: give one, or name the thing with foreground_words")
        masks = task.mask.expand(len(prompts), images, -1, -1)
    regions = _regions(task.model, prompts, images, foreground_words, maps, foreground_threshold, masks)
    edits: list[AttentionEdit] = [] if maps is None else [maps]
    first = 4 * task.num_steps // 50 if start_step is None else start_step
    chosen = _chosen(steps, first, task.num_steps, "step")
    if chosen:
        names = layer_names(task.model, task.latent_size, layers, start_layer)
        edits.append(MutualSelfAttention(names, chosen, union=union, regions=regions))

    # BDIA's steps look back at latents that known ones would replace, and bring the source back by themselves
    pinned = pin_source and source.trajectory is not None and source.correction is None
    latents = task.sample(
        replay=source,
        controls=[AttentionControl(edits)],
        before_step=[PinSource(source.latents_at, source.start_index, task.num_steps)] if pinned else [],
    )
    too_few = steps is None and start_step is None and first == 0
    notes = [NO_LAYOUT.format(task.num_steps)] if too_few else []
    return task.edited(latents, maps=None if maps is None else maps.average, notes=notes)


def layer_names(
    model: Model, latent_size: tuple[int, int], layers: Sequence[int] | None, start_layer: int | None
) -> list[str]:
    """Self-attention layers by module path, from positions in execution order.

    Raises:
        UsageError: A position that the model does not have.
        ModelError: The model has no layer of the default choice.
    """
    sites = list(sites_of_kind(model.sites(latent_size), "self"))
    if layers is None and start_layer is None:
        # Layers 10 to 15 of Stable Diffusion 1.x at 512 px: the decoder's at 32x32 and 64x64
        fine = [s.name for s in sites if s.stage == "up" and 2 * s.grid[0] >= latent_size[0]]
        if not fine:
            raise ModelError(f"{model.name!r} has no self-attention in its decoder to act on: choose layers")
        return fine
    return [sites[k].name for k in _chosen(layers, start_layer or 0, len(sites), "layer")]


def _chosen(given: Sequence[int] | None, start: int, count: int, kind: str) -> list[int]:
    """Positions from `start` on, or those given.

    Raises:
        UsageError: One is not in [0, count).
    """
    asked = [start] if given is None else list(given)
    for position in asked:
        if not 0 <= position < count:
            raise UsageError(f"{kind} {position} does not exist: there are {count}, counted from 0")
    return list(range(start, count)) if given is None else asked


def _regions(
    model: Model,
    prompts: Sequence[str],
    images: int,
    words: str | Sequence[str] | None,
    maps: CrossAttentionMaps | None,
    threshold: float,
    masks: Tensor | None,
) -> Regions | None:
    """The foreground of each branch, from masks or words.

    Raises:
        UsageError: They do not fit the branches, or both are given.
    """
    if masks is not None:
        if maps is not None:
            raise UsageError("give foreground_words or a mask of the foreground, not both")
        if masks.ndim != 4 or tuple(masks.shape[:2]) != (len(prompts), images):
            raise UsageError(
                f"masks must be (branch, image, height, width) with {len(prompts)} branches and {images} images,"
                f" got {tuple(masks.shape)}"
            )
        inside = masks > 0.5
        return lambda: inside
    if words is None or maps is None:
        return None
    one_each = [words] * len(prompts) if isinstance(words, str) else list(words)
    if len(one_each) != len(prompts):
        raise UsageError(
            f"foreground_words needs one word for all, or one for each of {len(prompts)} prompts; got {one_each}"
        )
    rows = [align.indicator(model.text, p, [w]) for p, w in zip(prompts, one_each, strict=True)]
    return WordRegions(maps, torch.stack(rows), threshold)
