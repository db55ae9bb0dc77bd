"""What a recipe hands back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Edited:
    """Latents of all branches after a run, and what a user may want to look at.

    Attributes:
        latents: (branch, image, channels, height, width); branch 0 is the source's reconstruction, the others the
            edits.
        branches: Their names, "source" first.
        maps: Mean cross-attention, (branch, image, height, width, token), or None where the method keeps none.
        mask: Where the edit was allowed at the last step, (edit, image, height, width), or None.
    """

    latents: Tensor
    branches: tuple[str, ...]
    maps: Tensor | None = None
    mask: Tensor | None = None
