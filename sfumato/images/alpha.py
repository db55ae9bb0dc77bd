"""Alpha: keeps it, puts images on a colour, removes that again, and fades from one image to another."""

from __future__ import annotations

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def with_alpha(image: Image.Image) -> Image.Image:
    """The image as RGBA where a pixel of it is transparent, else as RGB."""
    if image.has_transparency_data:
        # La is the one mode that Pillow converts to RGBA only by way of another
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            return rgba
        image = rgba
    return image if image.mode == "RGB" else image.convert("RGB")


def flattened(image: Image.Image, background: Colour = WHITE) -> Image.Image:
    """The image as RGB, on a colour where it is transparent."""
    image = with_alpha(image)
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")


def lifted(image: Image.Image, alpha: Image.Image, background: Colour = WHITE) -> Image.Image:
    """Takes an image off the colour that it was put on: with this alpha, put there again it looks the same.

    Where a pixel differs from the background by more than its alpha allows, its colour is the nearest that there is.

    Args:
        image: RGB, as it looks on the background.
        alpha: Mode L, of the same size.
        background: The colour.

    Returns:
        RGBA.
    """
    share = np.asarray(alpha, np.float32)[..., None] / 255.0
    behind = np.array(background, np.float32)
    colour = behind + (np.asarray(image, np.float32) - behind) / np.maximum(share, 1.0 / 255.0)
    colour = np.where(share > 0, colour, behind).clip(0, 255)
    found = Image.fromarray(np.rint(colour).astype(np.uint8))
    found.putalpha(alpha)
    return found


def as_transparent(image: Image.Image, source: Image.Image, background: Colour = WHITE) -> Image.Image:
    """Takes what was made of a transparent image off the colour that this was put on.

    Args:
        image: RGB, as it looks on the background.
        source: RGBA, of the same size. Its alpha is the result's; a pixel that looks as the source's does is that.
        background: The colour.

    Returns:
        RGBA.
    """
    same = (np.asarray(image) == np.asarray(flattened(source, background))).all(axis=-1)
    unchanged = Image.fromarray(np.where(same, 255, 0).astype(np.uint8))
    return Image.composite(source, lifted(image, source.getchannel("A"), background), unchanged)


def faded(first: Image.Image | None, second: Image.Image | None, weight: float, size: tuple[int, int]) -> Image.Image:
    """Alpha between that of two images of one size; None: opaque. `weight` 0 is the first, 1 the second."""
    opaque = Image.new("L", size, 255)
    return Image.blend(first or opaque, second or opaque, weight)
