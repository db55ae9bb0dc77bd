"""Runs without a source branch: the picture stands for itself, and there is one branch for each target prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.edits.result import LatentEdit
from sfumato.inversions.result import Inversion
from sfumato.inversions.sampled_source import with_trajectory
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch
from sfumato.watch import Watch


def target_branches(
    model: Model, target_prompts: Sequence[str], negative_prompt: str, guidance_scale: float
) -> dict[str, Branch]:
    """Branches "target", or "target-1", "target-2" ... when there are several."""
    condition = model.encode_prompt([*target_prompts, negative_prompt])
    negative, count = condition[[-1]], len(target_prompts)
    names = ["target"] if count == 1 else [f"target-{k + 1}" for k in range(count)]
    return {name: Branch(condition[[row]], negative, guidance_scale) for row, name in enumerate(names)}


def picture_of(
    model: Model,
    source: Inversion,
    source_prompt: str,
    negative_prompt: str,
    guidance_scale: float,
    *,
    watch: Watch | None = None,
) -> Inversion:
    """The source with the latents of its picture, which are sampled first where only its noise was drawn."""
    if source.trajectory is not None:
        return source
    condition = model.encode_prompt([source_prompt, negative_prompt])
    return with_trajectory(model, source, Branch(condition[[0]], condition[[1]], guidance_scale), watch=watch)


def unused_embeddings(source: Inversion, title: str) -> tuple[str, ...]:
    """A note where a method reads no more than the latents of an inversion that also tuned embeddings."""
    if source.null_embeds is None:
        return ()
    note = (
        f"{title} reads the source's latents of each step and replays nothing: the embeddings of a {source.method}"
        " inversion are not used, so that 'ddim' gives the same"
    )
    return (note,)


def with_source(
    clean: Tensor,
    targets: Tensor,
    branches: dict[str, Branch],
    *,
    mask: Tensor | None = None,
    notes: Sequence[str] = (),
) -> LatentEdit:
    """A result whose source branch is the picture itself: `clean` is (image, channels, height, width)."""
    latents = torch.cat([clean.to(targets)[None], targets])
    return LatentEdit(latents, ("source", *branches), mask=mask, notes=tuple(notes))
