"""A picture on its way in: read, fitted to the model, and remembered by content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sfumato.images import Fit, FittedImage, ImageSource, fit_image, load_image, to_pixels
from sfumato.models.base import Model

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A source picture.

    Attributes:
        fitted: The picture at a size that the model allows, and how to cut a result back.
        pixels: The same as a tensor, (1, 3, H, W) in [-1, 1].
        notes: What was done to it.
        origin: Its path, where it has one, and the SHA-256 of its fitted pixels; goes into recipes.
        turn: What turned it upright, as its EXIF orientation says, or None.
        alpha: Its alpha, fitted as the picture is, mode L; None where every pixel is opaque.
    """

    fitted: FittedImage
    pixels: Tensor
    notes: tuple[str, ...]
    origin: dict[str, Any]
    turn: Image.Transpose | None = None
    alpha: Image.Image | None = None


def read_picture(
    model: Model, image: ImageSource, size: tuple[int, int] | None, fit: Fit | None, background: tuple[int, int, int]
) -> Picture:
    """Reads a picture and fits it to the model; see `load_image` and `fit_image` for arguments and errors."""
    loaded = load_image(image, background=background)
    fitted = fit_image(loaded.image, multiple=model.size_multiple, size=size, fit=fit)
    notes = list(loaded.notes)
    if fitted.fit is not None:
        width, height = fitted.image.size
        notes.append(
            f"picture of {fitted.original_size[0]}x{fitted.original_size[1]} fitted to {width}x{height} ({fitted.fit})"
        )
    digest = hashlib.sha256(fitted.image.tobytes()).hexdigest()
    path = os.fspath(image) if isinstance(image, str | os.PathLike) else None
    alpha = None if loaded.alpha is None else fitted.alike(loaded.alpha).convert("L")
    return Picture(fitted, to_pixels(fitted.image), tuple(notes), {"path": path, "sha256": digest}, loaded.turn, alpha)
