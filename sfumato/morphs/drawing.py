"""The frames of a path, each drawn once, with progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from sfumato.models.base import Model
from sfumato.morphs.path import Frames, MorphPath
from sfumato.watch import Progress, Watch

DRAWS_A_FRAME = 6
"""Frames that a spacing draws at most for each that it keeps, unless it has its own limit; progress counts to it."""


def drawing(
    model: Model, path: MorphPath, spacing: str, options: Mapping[str, Any], num_frames: int, *, watch: Watch
) -> Frames:
    """The frames of a path, each drawn once and reported to the watch."""
    most = num_frames if spacing == "even" else options.get("max_draws") or DRAWS_A_FRAME * num_frames
    stage = watch.during("drawing frames" if spacing == "even" else "drawing frames (at most)")
    return Frames(replace(path, draw=_reporting(path.draw, most, stage)), model.decode_latents, watch=stage)


def _reporting(
    draw: Callable[[Sequence[float]], Tensor], most: int, watch: Watch
) -> Callable[[Sequence[float]], Tensor]:
    """The same, telling how many frames were drawn so far."""
    drawn = 0

    def reporting(weights: Sequence[float]) -> Tensor:
        nonlocal drawn
        if watch.progress is not None and drawn == 0:
            watch.progress(Progress(watch.stage, 0, most))
        frames = draw(weights)
        drawn += len(weights)
        if watch.progress is not None:
            watch.progress(Progress(watch.stage, drawn, max(most, drawn)))
        return frames

    return reporting
