"""Converts between images and tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato.errors import ImageError

if TYPE_CHECKING:
    import torch


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Gives the image as float32 pixels in [-1, 1], (1, 3, height, width)."""
    import torch

    values = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))  # (height, width, 3)
    return values.permute(2, 0, 1)[None].contiguous() / 127.5 - 1.0


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Turns pixels in [-1, 1], (batch, 3, height, width), into images; values outside are clamped, all are rounded.

    Raises:
        ImageError: The shape is another one, or a value is not a number.
    """
    import torch

    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ImageError(f"pixels must be (batch, 3, height, width), got {tuple(pixels.shape)}")
    values = (pixels.detach().to("cpu", torch.float32) + 1.0) * 127.5
    if values.isnan().any():
        raise ImageError("pixels hold NaN; a likely cause is an autoencoder run in half precision: use dtype fp32")
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in values.round().clamp(0, 255).to(torch.uint8)]
