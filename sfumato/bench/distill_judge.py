"""What is measured of a distilled edit of scenes: the one place that knows the scenes' judge and distance."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfumato.bench.editing import HIGHEST_PSNR, changed_region, kept_psnr
from sfumato.emoji.scene_edits import SceneEdit
from sfumato.emoji.scene_judge import Seen, load_scene_judge
from sfumato.errors import UsageError
from sfumato.images import to_pixels
from sfumato.metrics.psnr import psnr

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.emoji.perceptual import EmojiDistance
    from sfumato.emoji.scene_judge import SceneJudge

JUDGE, ENCODER = "judge.safetensors", "emoji-clip.safetensors"
KEPT_WITHIN = 15
"""Difference of a pixel, 0-255 in every channel, that counts as kept."""


class DistillJudge:
    """The networks that look at results.

    Args:
        folder: Of the judge of scenes and of the dual encoder.

    Raises:
        UsageError: One is missing.
    """

    def __init__(self, folder: Path) -> None:
        for name in (JUDGE, ENCODER):
            if not (folder / name).is_file():
                raise UsageError(f"no {name} in {folder}: name the folder of a model of scenes as judges")
        self._folder = folder

    @cached_property
    def judge(self) -> SceneJudge:
        """The independent judge, which no student is trained by."""
        return load_scene_judge(self._folder / JUDGE)

    @cached_property
    def distance(self) -> EmojiDistance:
        """The perceptual distance, which students are trained by, too."""
        from sfumato.emoji.dual_encoder import load_dual_encoder
        from sfumato.emoji.perceptual import EmojiDistance
        from sfumato.emoji.scenes import SIZE

        return EmojiDistance(load_dual_encoder(self._folder / ENCODER).requires_grad_(False), SIZE)

    @torch.no_grad()
    def figures(
        self, edit: SceneEdit, source: Image.Image, truth: Image.Image, result: Image.Image
    ) -> dict[str, float | None]:
        """Everything that is measured of one result; images of one size."""
        before, exact, after = (np.asarray(image.convert("RGB")) for image in (source, truth, result))
        kept = ~changed_region(before, exact)
        within = np.abs(after.astype(int) - before.astype(int)).max(axis=-1) <= KEPT_WITHIN
        (seen,) = self.judge.look(to_pixels(result))
        return {
            "target_distance": float(self.distance(to_pixels(result), to_pixels(truth))),
            "edit_seen": float(edit_seen(seen, edit)),
            "kept_within": float(within[kept].mean()) if kept.any() else None,
            "kept_psnr": kept_psnr(after, before, kept),
            "target_psnr": min(psnr(after, exact, data_range=255), HIGHEST_PSNR),
        }


def edit_seen(seen: Seen, edit: SceneEdit) -> bool:
    """Whether the judge finds in a result what the edit should have made, and no more what it replaced."""
    if edit.kind == "style":
        return seen.style == edit.target.style
    (index,) = edit.things
    before, after = edit.source.things[index], edit.target.things[index]
    found = seen.thing(after.concept)
    if edit.kind == "recolour":
        return found is not None and found.tint == after.tint
    return found is not None and seen.thing(before.concept) is None
