"""Masks, with the same rules for every method; docs/masks.md has them in full.

White may change, black stays, grey is a share; transparent stays. A mask has the size of the image as the user has it,
and is fitted to the model as the image is. Outside it the image stays: its clean latents, and with `mask_pixels` its
very pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.api.origin import Origin, file_of, path_of, pixel_hash
from sfumato.api.source_image import SourceImage
from sfumato.conditions.align import indicator
from sfumato.edits.keep_outside import KeepOutside
from sfumato.edits.word_mask import mask_from_words
from sfumato.errors import ImageError, UsageError
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model

if TYPE_CHECKING:
    from PIL import Image

MaskSource = Any
"""A path, bytes, PIL image or array, as `load_image` takes them, or a tensor (height, width) in [0, 1]; arrays and
tensors may be boolean, too."""

FEATHER_LEVELS = 32
"""The most levels that a feather has."""
COLOURED = 32
"""Channels of a mask that differ by more, of 255, make it a coloured one."""
NO_NOTES: tuple[str, ...] = ()
NEARLY = 8
"""A mask image this near to black or white, of 255, is meant to be it: JPEG and scaling leave such traces."""


def read_mask(source: MaskSource, image: SourceImage, *, invert: bool = False) -> tuple[Tensor, tuple[str, ...]]:
    """A mask as (1, 1, H, W) in [0, 1] at the size of the fitted image, and what there is to say of it.

    Args:
        source: White may change, grey is a share, black and transparent may not.
        image: The image that it belongs to.
        invert: What may not change may, and the other way round.

    Raises:
        ImageError: It cannot be read, has another size than the image, or lets nothing change.
    """
    read = _read(source)
    return _ready(_fitted(read, image), invert=invert), read.notes


@dataclass(frozen=True)
class _ReadMask:
    """A mask as it was read: (1, 1, H, W) in [0, 1], notes, and whether an EXIF orientation of its own turned it."""

    mask: Tensor
    notes: tuple[str, ...] = ()
    turned: bool = False


def mask_origin(source: MaskSource | Origin) -> Origin:
    """The origin of a mask, which is read for it.

    Raises:
        ImageError: It cannot be read.
    """
    return source if isinstance(source, Origin) else Origin(path_of(source), _hash(_read(source).mask))


def _read(source: Any) -> _ReadMask:
    return _ReadMask(_from_tensor(source)) if isinstance(source, Tensor) else _from_image(file_of(source, "mask"))


def _hash(mask: Tensor) -> str:
    return pixel_hash(_to_image(mask))


def _ready(mask: Tensor, *, invert: bool) -> Tensor:
    """A fitted mask, inverted where asked for.

    Raises:
        ImageError: It lets nothing change.
    """
    if invert:
        return _inverted(mask)
    if float(mask.max()) == 0.0:
        raise ImageError(
            "the mask is black or transparent everywhere, so nothing may change: paint white where the edit may show"
        )
    return mask


def _from_tensor(source: Tensor) -> Tensor:
    plain = source.layout is torch.strided and source.device.type != "meta" and not source.is_complex()
    if not plain or source.ndim < 2 or source.ndim > 4 or source.shape[:-2].numel() != 1:
        raise ImageError(f"a mask tensor must be (height, width) in [0, 1], got {tuple(source.shape)}, {source.dtype}")
    mask = source.detach().float().cpu().reshape(1, 1, *source.shape[-2:])
    if mask.numel() == 0:
        raise ImageError(f"the mask has no pixels: got {tuple(source.shape)}")
    low, high = float(mask.min()), float(mask.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ImageError(f"mask values must be in [0, 1], got {low:g} to {high:g}")
    return mask


def _from_image(source: Any) -> _ReadMask:
    from sfumato.images import load_image

    if isinstance(source, np.ndarray) and source.dtype == np.bool_:
        source = source.astype(np.uint8) * np.uint8(255)
    loaded = load_image(source, background=(0, 0, 0))  # so transparent is black
    colours = np.asarray(loaded.image)
    grey = np.array(loaded.image.convert("L"))
    if 0 < grey.max() <= 1:
        raise ImageError("the mask's brightest value is 1 of 255: multiply it by 255, or give it as booleans")
    coloured = int((colours.max(axis=2) - colours.min(axis=2)).max()) > COLOURED
    grey[grey < NEARLY], grey[grey > 255 - NEARLY] = 0, 255
    notes = ("the mask has colours: their brightness is used",) if coloured else ()
    return _ReadMask(torch.from_numpy(grey.astype(np.float32))[None, None] / 255, notes, loaded.turn is not None)


def _fitted(read: _ReadMask, image: SourceImage) -> Tensor:
    """The mask fitted as its image was, (1, 1, H, W).

    Raises:
        ImageError: It has neither the size of the image nor that of the fitted one.
    """
    mask, fitted = read.mask, image.fitted
    size = given = (mask.shape[3], mask.shape[2])
    if image.turn is not None and not read.turned and size not in (fitted.original_size, fitted.image.size):
        # perhaps painted over the photograph's pixels as they are stored, which its EXIF orientation turns upright
        mask = _to_tensor(_to_image(mask).transpose(image.turn))
        size = (mask.shape[3], mask.shape[2])
    if size == fitted.original_size and fitted.fit is not None:
        return _to_tensor(fitted.alike(_to_image(mask)))
    if size in (fitted.original_size, fitted.image.size):
        return mask
    width, height = fitted.original_size
    raise ImageError(
        f"the mask has {given[0]}x{given[1]} pixels, the image {width}x{height}: give a mask of the image's size"
    )


def _to_image(mask: Tensor) -> Image.Image:
    from PIL import Image

    return Image.fromarray((mask[0, 0] * 255).round().to(torch.uint8).numpy())


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("L"), dtype=np.float32))[None, None] / 255


def feathered(mask: Tensor, width: float) -> Tensor:
    """The mask with a soft edge inside it, (1, 1, H, W).

    Nothing outside the mask changes, and nothing that lies `width` pixels or more inside. Between, the mask rises
    evenly: it is the mean of the mask shrunk by more and more pixels. The border of the image is no edge.

    Args:
        mask: (1, 1, H, W) in [0, 1].
        width: Of the edge, pixels; below 2 there is none.
    """
    levels = min(FEATHER_LEVELS, ceil(width))
    if levels < 2:
        return mask
    total, shrunk, radius = torch.zeros_like(mask), mask, 0
    for level in range(levels):
        further = int(width * level / levels) - radius
        shrunk, radius = _shrunk(shrunk, further), radius + further
        total += shrunk
    return total / levels


def _shrunk(mask: Tensor, radius: int) -> Tensor:
    """The least value within `radius` pixels, (1, 1, H, W)."""
    side = 2 * radius + 1
    rows = F.max_pool2d(-mask, (side, 1), stride=1, padding=(radius, 0))
    return -F.max_pool2d(rows, (1, side), stride=1, padding=(0, radius))


def to_latent_size(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask at latent size, (1, 1, height, width): a latent may change as much as any pixel under it may."""
    return F.adaptive_max_pool2d(mask, size)


def paste(edited: Image.Image, source: Image.Image, weight: Tensor) -> Image.Image:
    """The edited image by `weight`, (1, 1, H, W) in [0, 1], on the source; bit-identical to the source where it is 0.

    Args:
        edited, source: PIL images of one size.
        weight: How much of the edited one shows.
    """
    from PIL import Image

    return Image.composite(edited, source, _to_image(weight))


@dataclass(frozen=True)
class Masking:
    """The mask of one edit, as a user asked for it.

    Attributes:
        mask: The user's, inverted where asked for, (1, 1, H, W), or None where words make it.
        words, threshold: See `mask_from_words`.
        invert: Whether what the words mark stays, and all else may change.
        feather: Width of the soft edge, pixels.
        pixels: Whether the result is pasted into the source.
        size: (height, width) of the fitted image in pixels.
        origin: Where the user's comes from, or None.
        notes: What there is to say of the mask.
    """

    mask: Tensor | None
    words: tuple[str, ...]
    threshold: float
    invert: bool
    feather: float
    pixels: bool
    size: tuple[int, int]
    origin: Origin | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        image: SourceImage | None,
        mask: MaskSource | Origin | None,
        words: str | Sequence[str] | None,
        *,
        threshold: float = 0.4,
        feather: float = 0.0,
        invert: bool = False,
        pixels: bool = False,
    ) -> Masking | None:
        """Checks and reads what a user asked for; None where no mask is asked for.

        Raises:
            UsageError: Arguments that do not fit one another, or a number out of range.
            ImageError: The mask cannot be read, does not fit the image, or lets nothing change.
        """
        if mask is None and words is None:
            if pixels or feather or invert:
                raise UsageError("mask_pixels, mask_feather and mask_invert need a mask: give mask or mask_words")
            return None
        if image is None:
            raise UsageError("a mask needs an image: pass one, or use the method's own local options")
        if mask is not None and words is not None:
            raise UsageError("give mask or mask_words, not both")
        listed = (words,) if isinstance(words, str) else tuple(words or ())
        if mask is None and not any(word.strip() for word in listed):
            raise UsageError("mask_words is empty: name words of the source prompt, such as 'cat'")
        if not 0.0 < threshold < 1.0:
            raise UsageError(f"mask_threshold must be in (0, 1), got {threshold:g}")
        width, height = image.fitted.image.size
        if not 0.0 <= feather <= min(width, height):
            raise UsageError(f"mask_feather must be in [0, {min(width, height)}] pixels, got {feather:g}")
        if mask is None:
            return cls(None, listed, threshold, invert, feather, pixels, (height, width))
        read = _read(mask)
        fitted = _fitted(read, image)
        notes = read.notes
        if isinstance(mask, Origin):
            # recipes of version 0.1 have the hash of the mask as it was used
            alike = [None, _hash(read.mask), _hash(fitted), _hash(1.0 - fitted)]
            changed = f"the mask {mask.path} has changed since, so that the image differs from then"
            notes = notes if mask.sha256 in alike else (*notes, changed)
        origin = Origin(mask.path if isinstance(mask, Origin) else path_of(mask), _hash(read.mask))
        ready = _ready(fitted, invert=invert)
        return cls(ready, (), threshold, invert, feather, pixels, (height, width), origin, notes)

    def check(self, model: Model, prompt: str) -> None:
        """Refuses words that are not in the prompt, with a UsageError, before the network runs."""
        if self.mask is None:
            indicator(model.text, prompt, self.words)

    def for_run(
        self, model: Model, clean: Tensor, start: Inversion, prompt: str, targets: int, generator: torch.Generator
    ) -> MaskedRun:
        """The mask of one run, at the size of the image and at that of its latents.

        Raises:
            ImageError: The attention to the words marks nothing, or everything where the mask is inverted.
        """
        mask = self.mask
        if mask is None:
            mask = mask_from_words(model, clean, prompt, self.words, threshold=self.threshold, generator=generator)
            if not bool(mask.any()):
                raise ImageError(
                    f"mask_words: the attention to {', '.join(self.words)} marks no place; give an image as mask"
                )
            mask = F.interpolate(mask.cpu(), size=self.size, mode="nearest")
            mask = _inverted(mask) if self.invert else mask
        weight = feathered(mask, self.feather)
        small = to_latent_size(weight, (clean.shape[-2], clean.shape[-1]))
        return MaskedRun(KeepOutside(small, clean, start, targets), weight, self.pixels)


@dataclass(frozen=True)
class MaskedRun:
    """A mask while a method runs, and the one blend after it.

    Attributes:
        hook: Holds the run to the image outside the mask.
        weight: How much of the edit shows, (1, 1, H, W) of the fitted image, in [0, 1].
        pixels: Whether it is blended in pixels, else in latents.
    """

    hook: KeepOutside
    weight: Tensor
    pixels: bool

    def latents(self, edited: Tensor) -> Tensor:
        """Edited latents, (rows, channels, height, width), with those of the image outside the mask."""
        return self.hook.blended(edited, soft=not self.pixels)

    def images(self, edited: Sequence[Image.Image], source: Image.Image) -> list[Image.Image]:
        """Edited images, pasted into the source where the blend is one of pixels."""
        return [paste(image, source, self.weight) for image in edited] if self.pixels else list(edited)


def _inverted(mask: Tensor) -> Tensor:
    """What may not change may, and the other way round.

    Raises:
        ImageError: Then nothing may.
    """
    if float(mask.min()) == 1.0:
        raise ImageError("the inverted mask is black everywhere, so nothing may change: leave out mask_invert")
    return 1.0 - mask
