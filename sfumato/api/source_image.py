"""The source image: read, fitted to the model, and identified by its content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sfumato.api.origin import Origin, file_of, path_of, pixel_hash
from sfumato.errors import ImageError
from sfumato.images import Fit, FittedImage, ImageSource, fit_image, load_image, to_pixels
from sfumato.models.base import Model

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class SourceImage:
    """A source image.

    Attributes:
        fitted: The image at a size that the model allows, and how to cut a result back.
        pixels: The same as a tensor, (1, 3, H, W) in [-1, 1].
        notes: What was done to it.
        origin: Its path, where it has one, and the SHA-256 of its pixels as they were read; goes into recipes.
        digest: SHA-256 of its fitted pixels.
        turn: What turned it upright, as its EXIF orientation says, or None.
        rgba: The image with its alpha, fitted as it is, mode RGBA; None where every pixel is opaque.
    """

    fitted: FittedImage
    pixels: Tensor
    notes: tuple[str, ...]
    origin: Origin
    digest: str
    turn: Image.Transpose | None = None
    rgba: Image.Image | None = None

    @property
    def alpha(self) -> Image.Image | None:
        """Its alpha, mode L; None where every pixel is opaque."""
        return None if self.rgba is None else self.rgba.getchannel("A")


def read_source(
    model: Model,
    image: ImageSource | Origin,
    size: tuple[int, int] | None,
    fit: Fit | None,
    background: tuple[int, int, int],
) -> SourceImage:
    """Reads an image and fits it to the model; see `load_image` and `fit_image` for arguments and errors.

    Raises:
        ImageError: Besides, an origin was no file, or its file holds another image now.
    """
    loaded = load_image(file_of(image, "image"), background=background)
    fitted = fit_image(loaded.image, multiple=model.size_multiple, size=size, fit=fit)
    read, digest = pixel_hash(loaded.image), pixel_hash(fitted.image)
    # recipes of version 0.1 have the hash of the fitted pixels
    if isinstance(image, Origin) and image.sha256 not in (None, read, digest):
        raise ImageError(
            f"{image.path} is not the image that was used then: its content has changed; to use it anyway, give it as"
            " IMAGE (image= in Python)"
        )
    notes = list(loaded.notes)
    if fitted.fit is not None:
        width, height = fitted.image.size
        notes.append(
            f"image of {fitted.original_size[0]}x{fitted.original_size[1]} fitted to {width}x{height} ({fitted.fit})"
        )
    origin = Origin(image.path if isinstance(image, Origin) else path_of(image), read)
    rgba = None if loaded.rgba is None else fitted.alike(loaded.rgba)
    return SourceImage(fitted, to_pixels(fitted.image), tuple(notes), origin, digest, loaded.turn, rgba)
