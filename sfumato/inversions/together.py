"""Joins inversions of single images to one of a batch, so that an edit runs once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sfumato.inversions.result import Inversion

IMAGE_AXIS: Mapping[str, int] = {
    "noise": 0,
    "trajectory": 1,
    "noise_maps": 1,
    "null_embeds": 1,
    "correction": 0,
}


def together(inversions: Sequence[Inversion]) -> Inversion:
    """All images in one inversion, for a replay; of one image, its inversion as it is.

    What a file or a report needs is left out: source images, residuals.

    Args:
        inversions: Of the same kind, grid, prompts and guidance, of one image each, of one size.
    """
    if len(inversions) == 1:
        return inversions[0]
    joined: dict[str, Any] = {}
    for name, axis in IMAGE_AXIS.items():
        parts = [getattr(inversion, name) for inversion in inversions]
        joined[name] = None if parts[0] is None else torch.cat(parts, dim=axis)
    extras = {
        name: torch.cat([inversion.null_extras[name] for inversion in inversions]) for name in inversions[0].null_extras
    }
    return replace(inversions[0], **joined, null_extras=extras, source_image=None, residuals=None)
