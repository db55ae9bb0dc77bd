"""Writes the atlas of drawings: every concept in every style, rendered once.

    python -m sfumato.emoji.training.atlas --concepts 24 --styles noto flat --out sprites.png

Needs `resvg-py` and the emoji drawings, see `sfumato.emoji.training.data`.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.emoji.render import ATLAS, COLUMNS, SIDE
from sfumato.emoji.scenes import STYLES, Concept, load_concepts
from sfumato.emoji.training.data import DataError, Drawings

MARGIN = 0.03
"""Empty border of a drawing, as a share of its side."""


def rasterise(drawings: Drawings, concept: Concept, style: str, side: int = SIDE) -> np.ndarray:
    """Renders one drawing: straight-alpha RGBA, uint8, (side, side, 4).

    Raises:
        DataError: The style has no drawing of it, or resvg-py is missing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataError("rendering needs resvg-py: pip install resvg-py") from error
    icon = drawings.icon(concept, style)
    if icon is None:
        raise DataError(f"{style} has no drawing of {concept.name!r} ({concept.hexcode})")
    body, width, height = icon
    scale = side * (1 - 2 * MARGIN) / max(width, height)
    place = f"translate({(side - scale * width) / 2:.4f} {(side - scale * height) / 2:.4f}) scale({scale:.6f})"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="0 0 {side} {side}"><g transform="{place}">{body}</g></svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def write_atlas(concepts: Sequence[Concept], styles: Sequence[str], path: Path) -> None:
    """Renders all drawings into one PNG file, and writes which world it holds beside it.

    Raises:
        DataError: See `rasterise`.
    """
    drawings = Drawings(styles)
    tiles = [rasterise(drawings, concept, style) for concept in concepts for style in styles]
    sheet = Image.new("RGBA", (COLUMNS * SIDE, -(-len(tiles) // COLUMNS) * SIDE))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
    entry = {"styles": list(styles), "concepts": [asdict(concept) for concept in concepts]}
    path.with_suffix(".json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sfumato.emoji.training.atlas", description=__doc__)
    parser.add_argument("--concepts", type=int, default=60, help="how many of concepts.json, from its beginning")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=list(STYLES))
    parser.add_argument("--out", type=Path, default=ATLAS)
    arguments = parser.parse_args()
    try:
        write_atlas(load_concepts()[: arguments.concepts], arguments.styles, arguments.out)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    _main()
