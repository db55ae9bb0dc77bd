"""docs/metrics.md, of what benchmarks/metrics.py measured."""

from __future__ import annotations

import json
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "metrics.md"

Row = dict[str, float | None] | str
"""Rank correlation of each change, or why there is none."""

COLUMNS = ("blur", "noise", "shift", "colour", "concept")
GOOD = 0.9


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "metrics.json").read_text(encoding="utf-8")))


TEXT = """\
# Metrics: what they answer, and how far to trust them

Written by `benchmarks/metrics.py`; the numbers are in `docs/metrics.json`.

{images} scenes of the emoji world, 128 x 128 pixels, are changed by rising amounts: blur (radius 0 to 4 pixels), noise
(standard deviation 0 to half the range), shift (0 to 12 pixels), colour (0 to 100 % of the way to swapped channels),
concept (the same scene, one thing replaced by a near one, by a far one, all replaced by far ones). A cell is
Spearman's rank correlation of the amount with how much worse the image is by the metric: 1 is a metric that never ranks
a stronger change before a weaker one. Values below {good} are in *italics*: do not use that metric to measure that
change. Definition, range, direction, source and network of each metric are in its docstring under `sfumato/metrics/`.

## Two images

The mean over the images of the correlation within each. The background metrics look outside a square in the middle.

{pairs}

## Two sets of images

The changed images as a set beside the originals. The sets are small and the two networks are not those of the papers:
good for ranking here, not comparable with published FID or KID.

{sets}

Density and coverage are not distances: images that become alike, by blur for example, may all be where real ones are
dense. What they are for, on 160 images beside 160 others of the same world, by the features of emoji-clip:

{shares}

## Morphs

Cross-fades of 17 frames, by pixel distance, with a known fault: uneven weights (smoothness, PDV), a way round (detour,
PPL), a first frame that misses its image (endpoint fidelity).

{morphs}

## Gaps

{gaps}
"""

GAPS = """\
Networks that were not on the computer where this page was written. Their metrics are implemented, and tested on random
weights; no number is made up for them.

| metric | what it needs |
| --- | --- |
"""


def page(result: dict[str, Any]) -> str:
    """The documentation page."""
    morphs = [f"| {name} | {_cell(value)} |" for name, value in result["morphs"].items()]
    shares = [f"| {name} | {_cell(value)} |" for name, value in result["shares"].items()]
    gaps = [f"| {name} | {row.removeprefix('gap: ')} |" for name, row in _gaps(result)]
    return TEXT.format(
        images=result["images"],
        good=GOOD,
        pairs="\n".join(table(result["pairs"])),
        sets="\n".join(table(result["sets"])),
        shares="\n".join(["| measure; what is wrong | rank correlation |", "| --- | ---: |", *shares]),
        morphs="\n".join(["| measure | rank correlation |", "| --- | ---: |", *morphs]),
        gaps=GAPS + "\n".join(gaps) if gaps else "None: every network was there.",
    )


def table(rows: dict[str, Row]) -> list[str]:
    """The rows that were measured; a gap is named in its row."""
    head = ["| metric | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    return head + [
        f"| {name} | " + " | ".join("gap" if isinstance(row, str) else _cell(row[column]) for column in COLUMNS) + " |"
        for name, row in rows.items()
    ]


def _cell(value: float | None) -> str:
    if value is None:
        return "constant"
    return f"{value:.3f}" if value >= GOOD else f"*{value:.3f}*"


def _gaps(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, row) for part in ("pairs", "sets") for name, row in result[part].items() if isinstance(row, str)]
