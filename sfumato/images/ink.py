"""The colours and measures of everything that sfumato draws: sheets, strips, plots."""

from __future__ import annotations

from typing import Any

PAPER, INK, FAINT, LINE, CHANGED = (255, 255, 255), (28, 28, 32), (110, 110, 118), (222, 222, 228), (190, 30, 70)
MARGIN, GAP = 24, 14


def line_height(font: Any) -> int:
    """Height in pixels of a line."""
    ascent, descent = font.getmetrics()
    return int(ascent + descent + 3)
