"""Images to tensors and back, and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 RGB (batch, height, width, 3) to float (batch, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """Float (batch, 3, height, width) in [-1, 1] to uint8 RGB (batch, height, width, 3)."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def save_sheet(
    images: np.ndarray | Sequence[np.ndarray], path: Path, *, columns: int, gap: int = 2, colours: int = 0
) -> None:
    """Writes a sheet of equal images, row by row.

    Args:
        images: uint8 RGB (count, height, width, 3).
        path: PNG file to write.
        columns: Images in a row.
        gap: White pixels between images.
        colours: Reduce the sheet to so many colours, at most 256, for a small file; 0 keeps them all.
    """
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        sheet.paste(
            Image.fromarray(image), (gap + index % columns * (width + gap), gap + index // columns * (height + gap))
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if colours:
        sheet = sheet.quantize(colours)
    sheet.save(path, optimize=True)
