"""Fits an image to a size that a model allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from sfumato.errors import ImageError, UsageError
from sfumato.images.reading import MAX_PIXELS, by

Fit = Literal["crop", "pad", "resize"]
FITS: tuple[Fit, ...] = ("crop", "pad", "resize")


@dataclass(frozen=True)
class FittedImage:
    """An image whose size the model allows.

    Attributes:
        image: PIL image of an allowed size.
        box: Where the caller's image lies in `image`: (left, top, right, bottom) in pixels.
        fit: What was done: "crop", "pad", "resize", or None when the image already fitted.
        original_size: (width, height) of the caller's image.
        scaled: Whether a size was asked for, so that "crop" and "pad" scale as well.
    """

    image: Image.Image
    box: tuple[int, int, int, int]
    fit: Fit | None
    original_size: tuple[int, int]
    scaled: bool = False

    def restore(self, image: Image.Image) -> Image.Image:
        """Cuts the padding off a result of the same size as `self.image`; other fits return it as it is."""
        if image.size != self.image.size:
            raise ImageError(f"expected an image of {by(self.image.size)} pixels, got {by(image.size)}")
        return image if self.box == (0, 0, *image.size) else image.crop(self.box)

    def alike(self, image: Image.Image) -> Image.Image:
        """Fits another image of the original's size in the same way: a mask or an alpha, whose edges must not ring.

        Raises:
            ImageError: It has another size.
        """
        if image.size != self.original_size:
            raise ImageError(f"expected an image of {by(self.original_size)} pixels, got {by(image.size)}")
        if self.fit is None:
            return image
        return _fitted(image, self.fit, self.image.size, self.scaled, None, Image.Resampling.BILINEAR)[0]


def fit_image(
    image: Image.Image,
    *,
    multiple: int,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    minimum: int | None = None,
    background: tuple[int, int, int] | None = None,
) -> FittedImage:
    """Gives the image a size that the model allows; one that fits already is returned unchanged.

    Args:
        image: PIL image, RGB.
        multiple: Width and height must be multiples of this many pixels.
        size: (width, height) that the result must have; by default the allowed size nearest to the image's own.
        fit: What may be done. "crop" cuts the borders off evenly (after scaling the image to cover, where it is
            smaller); "pad" adds borders evenly (after scaling the image into `size`, where given), which
            `FittedImage.restore` cuts off again; "resize" scales both sides, which may distort. None: nothing.
        minimum: Least width and height in pixels.
        background: Colour of the padding; by default the image's edge pixels are repeated.

    Raises:
        ImageError: The image does not fit and `fit` is None; the message names the nearest allowed size.
        UsageError: `fit` is unknown, or the model does not allow `size`.
    """
    if fit is not None and fit not in FITS:
        raise UsageError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    least = -(-max(minimum or 1, multiple) // multiple) * multiple
    nearest = _nearest(image.size, multiple, least)
    if size is not None:
        if len(size) != 2 or not all(isinstance(side, int) for side in size):
            raise UsageError(f"size must be (width, height) in whole pixels, got {size!r}")
        allowed = _nearest(size, multiple, least)
        if allowed != tuple(size) or size[0] * size[1] > MAX_PIXELS:
            rule = f"multiples of {multiple}, at least {least}, at most {MAX_PIXELS // 10**6} megapixels"
            raise UsageError(f"size {by(size)} is not allowed by the model ({rule}); the nearest is {by(allowed)}")
    if image.size == (size or nearest):
        return FittedImage(image, (0, 0, *image.size), None, image.size)
    if fit is None:
        rule = (
            f"size {by(size)} was asked for" if size else f"the model needs multiples of {multiple}, at least {least}"
        )
        raise ImageError(
            f"the image has {by(image.size)} pixels, and {rule}; resize it to {by(size or nearest)}, "
            f"or let it be done with fit: {', '.join(FITS)}"
        )
    scaled = size is not None
    size = size or (nearest if fit == "resize" else _rounded(image.size, multiple, least, up=fit == "pad"))
    fitted, box = _fitted(image, fit, size, scaled, background, Image.Resampling.LANCZOS)
    return FittedImage(fitted, box, fit, image.size, scaled)


def _fitted(
    image: Image.Image,
    fit: Fit,
    size: tuple[int, int],
    scaled: bool,
    background: tuple[int, int, int] | None,
    resampling: Image.Resampling,
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The image at exactly this size, and where it lies there."""
    if fit == "pad":
        return _pad(image, size, scaled, background, resampling)
    if fit == "crop":
        return _crop(image, size, scaled, resampling), (0, 0, *size)
    return image.resize(size, resampling), (0, 0, *size)


def _nearest(size: Sequence[int], multiple: int, least: int) -> tuple[int, int]:
    width, height = (max(least, (side + multiple // 2) // multiple * multiple) for side in size)
    return width, height


def _rounded(size: tuple[int, int], multiple: int, least: int, *, up: bool) -> tuple[int, int]:
    width, height = (max(least, (side + (multiple - 1 if up else 0)) // multiple * multiple) for side in size)
    return width, height


def _crop(image: Image.Image, size: tuple[int, int], scale: bool, resampling: Image.Resampling) -> Image.Image:
    ratio = max(size[0] / image.width, size[1] / image.height)
    if not scale and ratio <= 1:  # cut only: the pixels that stay are untouched
        left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
        return image.crop((left, top, left + size[0], top + size[1]))
    width, height = min(size[0] / ratio, image.width), min(size[1] / ratio, image.height)
    left_edge, top_edge = (image.width - width) / 2, (image.height - height) / 2
    box = (left_edge, top_edge, left_edge + width, top_edge + height)
    return image.resize(size, resampling, box=box)


def _pad(
    image: Image.Image,
    size: tuple[int, int],
    scale: bool,
    background: tuple[int, int, int] | None,
    resampling: Image.Resampling,
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    if scale:
        ratio = min(size[0] / image.width, size[1] / image.height)
        inner = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        image = image.resize(inner, resampling)
    left, top = (size[0] - image.width) // 2, (size[1] - image.height) // 2
    box = (left, top, left + image.width, top + image.height)
    if background is not None:
        padded = Image.new("RGB", size, background)
        padded.paste(image, box)
        return padded, box
    margins = ((top, size[1] - box[3]), (left, size[0] - box[2]), (0, 0))
    return Image.fromarray(
        np.pad(np.asarray(image if image.mode == "RGBA" else image.convert("RGB")), margins, mode="edge")
    ), box
