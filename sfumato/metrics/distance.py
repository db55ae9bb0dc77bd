"""Distances of images, by which a morph's frames are spaced and measured."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sfumato.metrics.values import checked_pixels


@runtime_checkable
class Distance(Protocol):
    """How far apart two images look.

    Called with pixels of two batches, it gives one value a pair; methods take any such callable, so a morph can be
    spaced by a deep network's distance, by the embedded model's, or by that of the pixels themselves.

    Attributes:
        name: Short and stable; reports and saved morphs name the distance that was used by it.
    """

    name: str

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Gives the distance of each pair.

        Args:
            first, second: Pixels in [-1, 1], (batch, 3, height, width); the batches broadcast against each other.

        Returns:
            (batch,), at least 0, and 0 for equal images; larger is further apart.

        Raises:
            ValueError: The shapes do not fit each other, or not the distance; or the pixels are no floats in [-1, 1].
        """


class PixelDistance:
    r"""Root mean squared difference of the pixels; needs no network.

    .. math:: d(a, b) = \sqrt{\frac{1}{n} \sum_i (a_i - b_i)^2}

    Range [0, 2] for pixels in [-1, 1]; 0 only for equal images; symmetric, and a metric in the mathematical sense. It
    sees how much of the light changed and nothing of what is shown: a small shift may weigh more than another animal.
    """

    name = "pixel"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """See `Distance`."""
        first, second = paired(first, second)
        difference = (first.double() - second.double()).flatten(1)
        # the norm, unlike a square root, has gradient 0 at equal images
        length: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return (length / math.sqrt(difference.shape[1])).to(first.dtype)


def paired(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Checks two batches of pixels and broadcasts them to one length.

    Args:
        first, second: Pixels in [-1, 1], (batch, 3, height, width).

    Returns:
        Both, of one shape and of the wider of the two types.

    Raises:
        ValueError: They are no pixels (see `checked_pixels`), their sizes differ, or the batches do not broadcast.
    """
    first, second = checked_pixels(first), checked_pixels(second)
    size, other = tuple(first.shape[2:]), tuple(second.shape[2:])
    if size != other:
        raise ValueError(f"images must have one size, got {size} and {other}: fit one to the other first")
    if first.shape[0] != second.shape[0] and 1 not in (first.shape[0], second.shape[0]):
        raise ValueError(f"batches must be equal or one of them 1, got {first.shape[0]} and {second.shape[0]} images")
    dtype = torch.promote_types(first.dtype, second.dtype)
    batch = max(first.shape[0], second.shape[0])
    expand = (batch, *first.shape[1:])
    return first.to(dtype).expand(expand), second.to(dtype).expand(expand)
