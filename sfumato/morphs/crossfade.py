"""Cross-fade: one picture laid over the other, ever more opaque. The baseline without a network.

In between both pictures are seen at once, half transparent: what a morph is there to avoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.adaptation.store import Store
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.path import Ends, MorphPath
from sfumato.registry import Option, morph_method
from sfumato.watch import Watch


@morph_method(
    "crossfade",
    title="Cross-fade",
    paper="the oldest dissolve of film",
    summary="Lays one picture over the other, ever more opaque; no network.",
    when="A baseline: what every morph has to beat.",
    cost="None; with space=latents the encoder and the decoder alone.",
    encodes=lambda options: options.get("space", "pixels") == "latents",
)
def crossfade(
    model: Model,
    ends: Ends,
    *,
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    distance: Distance,
    generator: torch.Generator,
    store: Store | None = None,
    watch: Watch | None = None,
    space: Annotated[
        Literal["pixels", "latents"], Option("mix the pictures themselves, or their latents before decoding")
    ] = "pixels",
) -> MorphPath:
    """Prepares the mean of both pictures with weights 1 - w and w; costs no network evaluation.

    Args:
        model: Not used.
        ends: The two pictures; their latents are used with space="latents" alone.
        negative_prompt, guidance_scale, num_inference_steps, distance, generator, store, watch: Not used.
        space: see its `Option`.
    """
    first, second = ends.pixels if space == "pixels" else ends.latents

    def draw(weights: Sequence[float]) -> Tensor:
        return torch.stack([(1.0 - weight) * first + weight * second for weight in weights])

    return MorphPath(draw, in_pixels=space == "pixels")
