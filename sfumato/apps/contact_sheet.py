"""Contact sheets: rows of images with words beside them, and attention maps as heat over an image. Pillow only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sfumato.images.ink import CHANGED, FAINT, GAP, INK, LINE, MARGIN, PAPER, line_height

# black, purple, red, orange, pale yellow: dark to light also for those who cannot tell the colours apart
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


@dataclass(frozen=True)
class Words:
    """A run of text.

    Attributes:
        text: The words.
        changed: Shown in colour and underlined.
    """

    text: str
    changed: bool = False


@dataclass(frozen=True)
class Cell:
    """An image and what stands under it."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the sheet.

    Attributes:
        title: In large letters.
        paragraphs: Beside the images, each a run of words.
        cells: The images, one a column.
    """

    title: str
    paragraphs: Sequence[Sequence[Words]]
    cells: Sequence[Cell]


def draw_sheet(
    rows: Sequence[Row], columns: Sequence[str], *, heading: str = "", tile: int = 192, text_width: int = 330
) -> Image.Image:
    """Draws a contact sheet.

    Args:
        rows: At least one, each with as many cells as there are columns.
        columns: Their headings.
        heading: Over everything.
        tile: Side in pixels that images are fitted into.
        text_width: Width in pixels of the words on the left.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    if any(len(row.cells) != len(columns) for row in rows):
        raise ValueError(f"every row must have {len(columns)} cells, got {[len(row.cells) for row in rows]}")
    title_font, font, small = (ImageFont.load_default(size) for size in (20, 16, 14))
    step = tile + GAP
    width = MARGIN * 2 + text_width + GAP + step * len(columns) - GAP
    blocks = [[_wrap(words, font, text_width) for words in row.paragraphs] for row in rows]
    caption_height, line = line_height(small) + 4, line_height(font)
    heights = [
        max(tile + caption_height, line_height(title_font) + 6 + sum(len(lines) * line + 8 for lines in block))
        for block in blocks
    ]
    top = MARGIN + (line_height(title_font) + GAP if heading else 0) + line + 6
    sheet = Image.new("RGB", (width, top + sum(height + 2 * GAP for height in heights) + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = MARGIN + text_width + GAP
    if heading:
        draw.text((MARGIN, MARGIN), heading, INK, title_font)
    for k, name in enumerate(columns):
        draw.text((left + k * step, top - line - 6), name, FAINT, font)
    y = top
    for row, block, height in zip(rows, blocks, heights, strict=True):
        draw.line((MARGIN, y, width - MARGIN, y), LINE)
        y += GAP
        draw.text((MARGIN, y), row.title, INK, title_font)
        below = y + line_height(title_font) + 6
        for lines in block:
            for words in lines:
                _draw_line(draw, (MARGIN, below), words, font)
                below += line
            below += 8
        for k, cell in enumerate(row.cells):
            shown = enlarge(cell.image, tile)
            sheet.paste(shown, (left + k * step + (tile - shown.width) // 2, y + (tile - shown.height) // 2))
            draw.text((left + k * step, y + tile + 4), cell.caption, FAINT, small)
        y += height + GAP
    return sheet


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """Fits an image into a square; small ones grow smoothly, as a viewer would show them."""
    ratio = side / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def heat_overlay(image: Image.Image, heat: Any, *, strength: float = 0.75) -> Image.Image:
    """Lays a map over an image as heat: the image shows in grey, the more of the map the more colour.

    Args:
        image: The image; the result has its size.
        heat: Array or CPU tensor, (height, width), values in [0, 1].
        strength: Opacity of the hottest places, in [0, 1].
    """
    values = np.asarray(heat, dtype=np.float32).clip(0, 1)
    grown = Image.fromarray(values, mode="F").resize(image.size, Image.Resampling.BICUBIC)
    warmth = np.asarray(grown, dtype=np.float64).clip(0, 1)[..., None]
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float64)
    opacity = strength * (0.35 + 0.65 * warmth)
    mixed = grey * (1 - opacity) + heat_colours(warmth[..., 0]) * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def heat_colours(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values in [0, 1], (...,), to sRGB colours in [0, 255], (..., 3), from dark to light."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)


def changed_words(prompt: str, other: str) -> list[Words]:
    """A prompt in words, those that the other prompt has not (at that place) marked as changed."""
    words, others = prompt.split(), other.split()
    found = []
    for kind, start, end, _, _ in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        found += [Words(word, changed=kind != "equal") for word in words[start:end]]
    return found


def _wrap(words: Sequence[Words], font: Any, width: int) -> list[list[Words]]:
    """Words in lines that fit the width."""
    lines: list[list[Words]] = [[]]
    room = float(width)
    for run in words:
        for word in run.text.split():
            needed = font.getlength(f"{word} ")
            if needed > room and lines[-1]:
                lines.append([])
                room = width
            lines[-1].append(Words(word, run.changed))
            room -= needed
    return lines


def _draw_line(draw: ImageDraw.ImageDraw, at: tuple[float, float], words: Sequence[Words], font: Any) -> None:
    x, y = at
    for word in words:
        draw.text((x, y), word.text, CHANGED if word.changed else INK, font)
        if word.changed:
            bottom = y + line_height(font) - 3
            draw.line((x, bottom, x + font.getlength(word.text), bottom), CHANGED)
        x += font.getlength(f"{word.text} ")
