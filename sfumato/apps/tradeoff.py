"""What `method="auto"` tried: every candidate on a sheet, and how well it took against how much it moved, as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfumato.apps.contact_sheet import Cell, Row, Words, draw_sheet
from sfumato.images.ink import CHANGED, FAINT, INK, LINE, PAPER

if TYPE_CHECKING:
    from sfumato.api.results import EditCandidate, EditResult


def tradeoff_sheet(result: EditResult) -> Image.Image:
    """Source, plot and all candidates, the chosen one marked.

    Args:
        result: Of a method that chooses among several (`result.tried` is not empty).
    """
    chosen = chosen_index(result)
    source, target = result.recipe["source_prompt"], result.recipe["target_prompts"][0]
    rows = [
        Row(
            "source" if k < 0 else f"{k + 1}. {tried.method}" + (" (chosen)" if k == chosen else ""),
            [[Words(source if k < 0 else target)], [Words("" if k < 0 else _said(tried))]],
            [Cell(result.source if k < 0 else tried.image, "" if k < 0 else _measured(tried))],
        )
        for k, tried in [(-1, result.tried[0]), *enumerate(result.tried)]
    ]
    candidates = draw_sheet(rows, ["image"], heading="what was tried", tile=170)
    points = [(tried.change, tried.agreement) for tried in result.tried]
    plot = draw_plot(points, chosen, side=440)
    sheet = Image.new("RGB", (candidates.width + plot.width, max(candidates.height, plot.height)), PAPER)
    sheet.paste(candidates, (0, 0))
    sheet.paste(plot, (candidates.width, 0))
    return sheet


def chosen_index(result: EditResult) -> int:
    """Which candidate the result is: the nearest one, as decoding in another batch may round otherwise."""
    pixels = np.asarray(result.image, dtype=np.float32)
    away = [float(np.abs(np.asarray(tried.image, dtype=np.float32) - pixels).mean()) for tried in result.tried]
    return away.index(min(away))


def draw_plot(points: Sequence[tuple[float, float]], chosen: int, *, side: int) -> Image.Image:
    """A scatter plot of (change, agreement), numbered from 1; the origin is the unedited image."""
    plot = Image.new("RGB", (side, side), PAPER)
    draw, font = ImageDraw.Draw(plot), ImageFont.load_default(15)
    left, top, right, bottom = 50, 40, side - 30, side - 50
    far = max([change for change, _ in points] + [1e-9]) * 1.1
    high = max([agreement for _, agreement in points] + [1e-9]) * 1.15
    low = min([agreement for _, agreement in points] + [0.0]) * 1.1

    def place(change: float, agreement: float) -> tuple[float, float]:
        return left + change / far * (right - left), bottom - (agreement - low) / (high - low) * (bottom - top)

    draw.line((*place(0, low), *place(0, high)), LINE)
    draw.line((*place(0, 0), *place(far, 0)), LINE)
    draw.text((left, 12), "agreement with the target prompt", FAINT, font)
    draw.text((right, bottom + 22), "change of the latents", FAINT, font, anchor="rt")
    draw.text((place(0, 0)[0] - 8, place(0, 0)[1]), "0", FAINT, font, anchor="rm")
    for k, point in enumerate(points):
        x, y = place(*point)
        colour, radius = (CHANGED, 7) if k == chosen else (INK, 5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        draw.text((x + 10, y - 10), str(k + 1), colour, font)
    return plot


def _said(tried: EditCandidate) -> str:
    return ", ".join(f"{name} {value}" for name, value in tried.options.items()) or "defaults"


def _measured(tried: EditCandidate) -> str:
    return f"took {tried.agreement:.4f}, moved {tried.change:.2f}"
