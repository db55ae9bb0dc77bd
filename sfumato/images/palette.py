"""One palette for all frames of a movie, and frames in its colours: what GIF needs.

A palette of each frame's own makes what stands still flicker. Dithering is ordered: a pixel's colour and place alone
decide, so that what does not change does not move, which error diffusion cannot promise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

COLOURS = 255
"""Of 256; the last index is left for what is transparent."""

_SAMPLED, _ROUNDS = 16_384, 12
_STRONGEST = 24.0
"""Levels of 255 that dithering moves a colour by at most, from end to end."""

Colours = npt.NDArray[np.uint8]


def shared_palette(frames: Sequence[Image.Image], colours: int = COLOURS) -> Colours:
    """The colours that all frames together are best shown in: k-means from a median cut.

    Args:
        frames: RGB, of one size.
        colours: At most so many.

    Returns:
        (colour, 3).
    """
    each = max(256, _SAMPLED // len(frames))
    chosen = np.random.default_rng(0)  # always the same; a regular grid would fall in step with stripes
    sample = np.concatenate([_some(np.asarray(frame).reshape(-1, 3), each, chosen) for frame in frames])
    found = np.unique(sample, axis=0)
    if len(found) <= colours:
        return found
    start = Image.fromarray(sample[None]).quantize(colours, Image.Quantize.MEDIANCUT).getpalette() or []
    centres = np.array(start[: 3 * colours], np.float32).reshape(-1, 3)
    pixels = sample.astype(np.float32)
    for _ in range(_ROUNDS):
        owner = _nearest(pixels, centres)
        count = np.bincount(owner, minlength=len(centres))
        total = np.stack([np.bincount(owner, pixels[:, k], len(centres)) for k in range(3)], axis=1)
        used = count > 0
        centres[used] = total[used] / count[used, None]
    return np.unique(np.rint(centres).astype(np.uint8), axis=0)


def in_palette(frame: Image.Image, palette: Colours, *, dither: bool = True) -> Image.Image:
    """A frame in the colours of a palette.

    Args:
        frame: RGB, or RGBA, whose pixels that are less than half opaque get the last index, 255.
        palette: (colour, 3), at most 255.
        dither: Mix colours that the palette has not, by an 8x8 pattern as strong as the nearest colour is wrong.

    Returns:
        Mode P; with `transparency` in its info where the frame has alpha.
    """
    book = Image.new("P", (1, 1))
    book.putpalette(palette.tobytes())
    colour = frame.convert("RGB")
    shown = colour.quantize(palette=book, dither=Image.Dither.NONE)
    if dither:
        wanted = np.asarray(colour, np.float32)
        wrong = np.linalg.norm(wanted - palette[np.asarray(shown)], axis=2, keepdims=True)
        height, width = wanted.shape[:2]
        pattern = np.tile(_BAYER, (-(-height // 8), -(-width // 8)))[:height, :width, None]
        moved = wanted + pattern * np.minimum(2.0 * wrong, _STRONGEST)
        mixed = Image.fromarray(np.rint(moved.clip(0, 255)).astype(np.uint8))
        shown = mixed.quantize(palette=book, dither=Image.Dither.NONE)
    shown.putpalette(palette.tobytes())
    if frame.mode == "RGBA":
        indices = np.where(np.asarray(frame.getchannel("A")) < 128, np.uint8(255), np.asarray(shown))
        shown = Image.fromarray(indices, "P")
        shown.putpalette(palette.tobytes())
        shown.info["transparency"] = 255
    return shown


def _some(pixels: Colours, count: int, chosen: np.random.Generator) -> Colours:
    return pixels if len(pixels) <= count else pixels[chosen.integers(len(pixels), size=count)]


def _nearest(pixels: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    nearest: npt.NDArray[np.intp] = np.argmin(np.square(centres).sum(axis=1) - 2.0 * pixels @ centres.T, axis=1)
    return nearest


def _bayer(size: int) -> npt.NDArray[np.float32]:
    """Ordered thresholds of mean 0 in (-1/2, 1/2), (size, size); a power of 2."""
    matrix = np.zeros((1, 1))
    while len(matrix) < size:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return ((matrix + 0.5) / matrix.size - 0.5).astype(np.float32)


_BAYER = _bayer(8)
