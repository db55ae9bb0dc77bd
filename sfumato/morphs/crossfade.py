"""Cross-fade: the weighted mean of the two images. The baseline without a network.

Frames in between show both images at once, half transparent, which a morph is to avoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.task import MorphTask
from sfumato.options import Option


@morph_method(
    "crossfade",
    title="Cross-fade",
    paper="none: the weighted mean",
    summary="Fades from one image to the other; no network.",
    when="A baseline that every morph should improve on.",
    cost="None; with space=latents the encoder and the decoder alone.",
    encodes=lambda options: options.get("space", "pixels") == "latents",
)
def crossfade(
    task: MorphTask,
    *,
    space: Annotated[
        Literal["pixels", "latents"], Option("what is mixed: the pixels, or the latents before they are decoded")
    ] = "pixels",
) -> MorphPath:
    """Prepares the mean of both images with weights 1 - w and w; costs no network evaluation."""
    first, second = task.ends.pixels if space == "pixels" else task.ends.latents

    def draw(weights: Sequence[float]) -> Tensor:
        return torch.stack([(1.0 - weight) * first + weight * second for weight in weights])

    return MorphPath(draw, in_pixels=space == "pixels")
