"""Images as points: resizing without aliasing, and the features of many images under a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.metrics.values import checked_finite, checked_pixels

FeatureNetwork = Callable[[Tensor], Tensor]
"""Pixels in [-1, 1], (batch, 3, height, width), to features, (batch, dim)."""


def clean_resize(pixels: Tensor, size: int | tuple[int, int], *, eight_bit: bool = True) -> Tensor:
    """Resizes as clean-fid does: Pillow's bicubic filter with antialiasing, on each channel in floating point.

    Other ways of resizing change an FID by more than many methods differ by.

    Reference: Parmar, Zhang and Zhu, 2022, "On aliased resizing and surprising subtleties in GAN evaluation",
    https://arxiv.org/abs/2104.11222.

    Args:
        pixels: In [-1, 1], (batch, 3, height, width).
        size: Side of the square result, or (height, width).
        eight_bit: Rounds to 256 levels first, as images read from a file are. Not rounded afterwards.

    Returns:
        Float32 pixels in [-1, 1], (batch, 3, *size), on the device of `pixels`.

    Raises:
        ValueError: Another shape or range, or a size below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    values = (checked_pixels(pixels).detach().cpu().float() + 1) * 127.5
    if eight_bit:
        values = values.round().clamp(0, 255)
    planes = values.reshape(-1, *values.shape[-2:]).numpy()
    resized = [
        np.asarray(Image.fromarray(plane).resize((width, height), resample=Image.Resampling.BICUBIC))
        for plane in planes
    ]
    stacked = torch.from_numpy(np.stack(resized)).reshape(*values.shape[:2], height, width)
    return (stacked.clamp(0, 255) / 127.5 - 1).to(pixels.device)


@torch.no_grad()
def features_of(pixels: Tensor, network: FeatureNetwork, *, batch_size: int = 32) -> Tensor:
    """Gives the features of many images.

    Args:
        pixels: In [-1, 1], (count, 3, height, width); a network that wants another size resizes by itself.
        network: See `FeatureNetwork`.
        batch_size: Images that go through the network at once.

    Returns:
        (count, dim), float64, on the CPU.

    Raises:
        ValueError: The batch size is below 1, the pixels are none, of another shape or range, or a feature is not
            finite.
    """
    if batch_size < 1 or not len(pixels):
        raise ValueError(f"need images and a batch size of 1 or more, got {len(pixels)} and {batch_size}")
    found = torch.cat([network(batch).detach().cpu().double() for batch in checked_pixels(pixels).split(batch_size)])
    return checked(found)


def checked(features: Tensor, name: str = "features", *, at_least: int = 1) -> Tensor:
    """Gives features as float64 on the CPU.

    Raises:
        ValueError: They are no tensor (count, dim), fewer than `at_least`, or not finite.
    """
    if not isinstance(features, Tensor):
        raise ValueError(f"{name} must be a tensor (count, dim), got {type(features).__name__}")
    if features.ndim != 2 or len(features) < at_least or not features.shape[1]:
        raise ValueError(f"{name} must be (count, dim) with count {at_least} or more, got {tuple(features.shape)}")
    return checked_finite(features, name).detach().cpu().double()


def checked_pair(first: Tensor, second: Tensor, *, at_least: int = 2) -> tuple[Tensor, Tensor]:
    """Gives two sets of features as float64 on the CPU; raises ValueError where they do not fit each other."""
    first, second = checked(first, "first", at_least=at_least), checked(second, "second", at_least=at_least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features must come from one network, got {first.shape[1]} and {second.shape[1]} dimensions")
    return first, second
