"""A toy world of scenes, made here: four shapes in two styles, no drawings of anybody, no network."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

from sfumato.emoji.render import COLUMNS, SIDE, Atlas

CONCEPTS = (("square", "thing", True), ("disc", "thing", True), ("triangle", "plant", False), ("ring", "thing", False))
STYLES = ("noto", "flat")


def write_toy_atlas(path: Path) -> Path:
    """Draws the atlas and its JSON file; returns the path of the image."""
    sheet = Image.new("RGBA", (COLUMNS * SIDE, SIDE))
    for number, (name, style) in enumerate((name, style) for name, _, _ in CONCEPTS for style in STYLES):
        tile = Image.new("RGBA", (SIDE, SIDE))
        pen, colour = ImageDraw.Draw(tile), (200, 40, 40, 255) if style == "noto" else (220, 120, 60, 255)
        box = (8, 8, SIDE - 9, SIDE - 9)
        if name == "square":
            pen.rectangle(box, fill=colour)
            pen.rectangle((8, 8, SIDE // 2, SIDE // 2), fill=(60, 60, 60, 255))  # so that turns and mirrors show
        elif name == "disc":
            pen.ellipse(box, fill=colour)
        elif name == "ring":
            pen.ellipse(box, outline=colour, width=16)
        else:
            pen.polygon([(SIDE // 2, 8), (8, SIDE - 9), (SIDE - 9, SIDE - 9)], fill=colour)
        sheet.paste(tile, (number % COLUMNS * SIDE, 0))
    sheet.save(path)
    concepts = [
        {
            "name": name,
            "hexcode": "",
            "kind": kind,
            "tint": tint,
            "other_names": ["round disc"] if name == "disc" else [],
        }
        for name, kind, tint in CONCEPTS
    ]
    path.with_suffix(".json").write_text(json.dumps({"styles": STYLES, "concepts": concepts}))
    return path


def toy_atlas(folder: Path) -> Atlas:
    """The atlas, loaded."""
    return Atlas(write_toy_atlas(folder / "toy.png"))
