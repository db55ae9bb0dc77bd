"""A film strip of a morph, its frames side by side, and a plot of the distances between them. Pillow only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from sfumato.errors import ImageError
from sfumato.images.alpha import flattened
from sfumato.images.ink import CHANGED, FAINT, GAP, INK, LINE, MARGIN, PAPER, line_height


def film_strip(
    frames: Sequence[Image.Image],
    captions: Sequence[str] = (),
    *,
    heading: str = "",
    columns: int = 8,
    tile: int = 128,
) -> Image.Image:
    """Draws frames in rows.

    Args:
        frames: At least one.
        captions: One a frame, or none.
        heading: Over everything.
        columns: Frames a row; the rows are made about equally long.
        tile: Longer side of a frame in pixels.

    Raises:
        ImageError: No frames, or another number of captions.
    """
    if not frames or (captions and len(captions) != len(frames)):
        raise ImageError(f"a film strip needs frames, and one caption each: {len(frames)} and {len(captions)}")
    rows = -(-len(frames) // columns)
    columns = -(-len(frames) // rows)
    title_font, font = ImageFont.load_default(18), ImageFont.load_default(13)
    ratio = tile / max(frames[0].size)
    width, height = (max(1, round(side * ratio)) for side in frames[0].size)
    step_x, step_y = width + GAP // 2, height + GAP // 2 + (line_height(font) if captions else 0)
    top = MARGIN + (line_height(title_font) + GAP if heading else 0)
    wide = max(2 * MARGIN + columns * step_x - GAP // 2, int(title_font.getlength(heading)) + 2 * MARGIN)
    sheet = Image.new("RGB", (wide, top + rows * step_y - GAP // 2 + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), heading, INK, title_font)
    for k, frame in enumerate(frames):
        x, y = MARGIN + k % columns * step_x, top + k // columns * step_y
        sheet.paste(flattened(frame).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        if captions:
            draw.text((x + width / 2, y + height + 2), captions[k], FAINT, font, anchor="mt")
    return sheet


def step_plot(
    series: Mapping[str, Sequence[float]], *, measure: str, size: tuple[int, int] = (640, 360)
) -> Image.Image:
    """Plots the distances of consecutive frames, one line a series; the last one stands out.

    Args:
        series: Distances by what they are of; of each, at least one.
        measure: What was measured, beside the vertical axis.
        size: (width, height) in pixels.

    Raises:
        ImageError: Nothing to plot, or a value that is not a number.
    """
    values = [value for line in series.values() for value in line]
    if not values or not all(map(math.isfinite, values)) or not all(map(len, series.values())):
        raise ImageError("a plot of steps needs finite distances in every series")
    width, height = size
    plot = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(plot), ImageFont.load_default(14)
    left, top, right, bottom = 64, 34 + line_height(font) * len(series), width - MARGIN, height - 48
    high = (max(values) or 1.0) * 1.08

    def place(part: float, value: float) -> tuple[float, float]:
        return left + part * (right - left), bottom - value / high * (bottom - top)

    tick = _tick(high)
    for count in range(int(high / tick) + 1):
        y = place(0, count * tick)[1]
        draw.line((left, y, right, y), LINE)
        draw.text((left - 8, y), f"{count * tick:g}", FAINT, font, anchor="rm")
    draw.text((MARGIN, 12), f"{measure} distance from frame to frame", FAINT, font)
    draw.text((right, bottom + 18), "along the morph", FAINT, font, anchor="rt")
    for row, (name, line) in enumerate(series.items()):
        last = row == len(series) - 1
        colour, thick, radius = (CHANGED, 3, 4) if last else (FAINT, 2, 3)
        points = [place((k + 0.5) / len(line), value) for k, value in enumerate(line)]
        draw.line(points, colour, thick)
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        y = 34 + row * line_height(font)
        mean = math.fsum(line) / len(line)
        said = f"{name}: largest over mean {max(line) / mean:.2f}" if mean else f"{name}: nothing moves"
        draw.line((MARGIN, y + 8, MARGIN + 22, y + 8), colour, thick)
        draw.text((MARGIN + 30, y), said, INK if last else FAINT, font)
    return plot


def _tick(high: float) -> float:
    """A round number of which three to seven fit below `high`."""
    unit = 10.0 ** math.floor(math.log10(high))
    return next(unit * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if high / (unit * part) <= 7)
