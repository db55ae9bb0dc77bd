"""The result of a recipe: latents, maps, masks and notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LatentCandidate:
    """One of several edits that a recipe tried.

    Attributes:
        method, options: What made it.
        agreement: How well the edit took; higher is better, 0 is the unedited image.
        change: Relative L2 distance of its latents from the source's.
        latents: (image, channels, height, width).
    """

    method: str
    options: Mapping[str, Any]
    agreement: float
    change: float
    latents: Tensor


@dataclass(frozen=True)
class LatentEdit:
    """Latents of all branches after a run, and what a user may want to look at.

    Attributes:
        latents: (branch, image, channels, height, width); branch 0 is the source's reconstruction, the others the
            edits.
        branches: Their names, "source" first.
        maps: Mean cross-attention, (branch, image, height, width, token), or None where the method keeps none.
        mask: Where the edit was allowed at the last step, (edit, image, height, width), or None.
        candidates: All edits that were tried, where the recipe chooses among several.
        distances: Euclidean distance of each edited branch from the source's after each executed step,
            (steps, edit, image), or None where the recipe does not measure it.
        notes: What the user should know of how the edit was understood.
    """

    latents: Tensor
    branches: tuple[str, ...]
    maps: Tensor | None = None
    mask: Tensor | None = None
    candidates: tuple[LatentCandidate, ...] = ()
    distances: Tensor | None = None
    notes: tuple[str, ...] = ()

    def of_image(self, k: int) -> LatentEdit:
        """The edit of one image of the batch, the image axis kept."""
        return replace(
            self,
            latents=self.latents[:, [k]],
            maps=None if self.maps is None else self.maps[:, [k]],
            mask=None if self.mask is None else self.mask[:, [k]],
            candidates=tuple(replace(candidate, latents=candidate.latents[[k]]) for candidate in self.candidates),
            distances=None if self.distances is None else self.distances[..., [k]],
        )
