"""Cross-fade: one image laid over the other, ever more opaque. The baseline without a network.

In between both images are seen at once, half transparent: what a morph is there to avoid.
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
    paper="the oldest dissolve of film",
    summary="Lays one image over the other, ever more opaque; no network.",
    when="A baseline: what every morph has to beat.",
    cost="None; with space=latents the encoder and the decoder alone.",
    encodes=lambda options: options.get("space", "pixels") == "latents",
)
def crossfade(
    task: MorphTask,
    *,
    space: Annotated[
        Literal["pixels", "latents"], Option("mix the images themselves, or their latents before decoding")
    ] = "pixels",
) -> MorphPath:
    """Prepares the mean of both images with weights 1 - w and w; costs no network evaluation."""
    first, second = task.ends.pixels if space == "pixels" else task.ends.latents

    def draw(weights: Sequence[float]) -> Tensor:
        return torch.stack([(1.0 - weight) * first + weight * second for weight in weights])

    return MorphPath(draw, in_pixels=space == "pixels")
