"""Structure distance: how much the layout of an image has changed, independent of colours and textures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.metrics.backbones import IMAGENET_MEAN, IMAGENET_STD
from sfumato.metrics.distance import paired
from sfumato.metrics.values import checked_finite

Protocol = Literal["strict", "pie-2023"]
KeysNetwork = Callable[[Tensor], Tensor]
"""Normalised images (batch, 3, height, width) to the keys of one attention layer, (batch, tokens, dim), the heads
side by side and the class token included: `sfumato.judges.clip.load_dino`."""

SHORT_SIDE, LONG_SIDE = 224, 480


@torch.no_grad()
def structure_distance(
    first: Tensor, second: Tensor, keys: KeysNetwork, *, protocol: Protocol = "strict", short_side: int = SHORT_SIDE
) -> Tensor:
    r"""Compares how alike the parts of each image are to one another.

    .. math:: d(a, b) = \frac{1}{n^2} |S(a) - S(b)|_F^2, \qquad
              S(a)_{ij} = \cos(k_i(a), k_j(a))

    with the keys k of the last layer of DINO ViT-B/8. Range [0, 4], in practice below 0.3; 0 for equal images; lower
    is closer. The image is not masked.

    References: Tumanyan et al., 2022 (Splice), https://arxiv.org/abs/2201.00424, for the descriptor; Ju et al., 2023,
    https://arxiv.org/abs/2310.01506, for its use on PIE-Bench.

    Args:
        first, second: Pixels in [-1, 1], (batch, 3, height, width); the batches broadcast.
        keys: The network.
        protocol: `strict`: values in [0, 1] and resizing with antialiasing, as the network was trained. `pie-2023`: the
            values 0 to 255 as they are and no antialiasing, which is what the published tables on PIE-Bench were
            computed with; on another scale altogether.
        short_side: What the short side is resized to, bilinearly; the long side follows, but to 480 at most (for 224).

    Returns:
        (batch,), float64.

    Raises:
        ValueError: Pixels of another shape or range, an unknown protocol, or keys that are not finite.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {protocol!r}")
    similarities = [
        self_similarity(checked_finite(keys(structure_input(pixels, protocol=protocol, short_side=short_side)), "keys"))
        for pixels in paired(first, second)
    ]
    return (similarities[0] - similarities[1]).square().mean(dim=(1, 2))


def structure_input(pixels: Tensor, *, protocol: Protocol, short_side: int = SHORT_SIDE) -> Tensor:
    """Pixels in [-1, 1] to the network's input."""
    values = (pixels.float() + 1) * 127.5
    values = values.round().clamp(0, 255) if protocol == "pie-2023" else values / 255
    size = resized_size(values.shape[2], values.shape[3], short_side)
    values = F.interpolate(values, size=size, mode="bilinear", antialias=protocol == "strict")
    mean, std = (values.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (values - mean) / std


def resized_size(height: int, width: int, short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """Height and width with the short side at `short_side`, smaller where the long one would pass its limit."""
    limit = LONG_SIDE * short_side // SHORT_SIDE
    short, long = short_side, int(short_side * max(height, width) / min(height, width))
    if long > limit:
        short, long = int(limit * short / long), limit
    return (short, long) if height <= width else (long, short)


def self_similarity(keys: Tensor) -> Tensor:
    """Cosines of all pairs of tokens: (batch, tokens, dim) to (batch, tokens, tokens), float64."""
    unit = F.normalize(keys.double(), dim=-1, eps=1e-8)
    return torch.einsum("bid,bjd->bij", unit, unit)
