"""The example images of the demo: real drawings, not generated ones.

`python -m sfumato.emoji.training.make_examples` writes them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sfumato.emoji import EXAMPLES
from sfumato.emoji.render import render, shipped_atlas
from sfumato.emoji.scene_captions import caption
from sfumato.emoji.scenes import Background, Scene, Thing
from sfumato.images import to_images


def _stripes(colour: str, pattern: str, angle: float, spacing: float) -> Background:
    return Background(colour, pattern=pattern, angle=angle, phase=(0.3, 0.6), spacing=spacing)


SCENES: dict[str, Scene] = {
    "cat": Scene((Thing("cat", size=0.72),), Background("blue")),
    "dog": Scene((Thing("dog", size=0.72),), Background("blue")),
    "fox-and-pizza": Scene(
        (Thing("fox", 0.3, 0.36, 0.5, -12), Thing("pizza", 0.71, 0.69, 0.46, 14)),
        _stripes("blue", "stripes", 35, 24),
        "flat",
    ),
    "apple-and-cat": Scene(
        (Thing("apple", 0.3, 0.66, 0.46, 10, tint="red"), Thing("cat", 0.7, 0.34, 0.5, 8)), Background("yellow"), "flat"
    ),
    "rabbit-and-tree": Scene(
        (Thing("rabbit", 0.32, 0.66, 0.46, -8), Thing("tree", 0.7, 0.4, 0.54, 0)),
        Background("blue", pattern="snow", amount=0.5, seed=4),
    ),
    "star-and-heart": Scene(
        (Thing("star", 0.32, 0.32, 0.46, -16, tint="yellow"), Thing("heart", 0.68, 0.7, 0.44, 12, tint="red")),
        Background("purple"),
        "flat",
    ),
    "car-and-balloon": Scene(
        (Thing("car", 0.36, 0.7, 0.52, 0, True, tint="blue"), Thing("balloon", 0.74, 0.3, 0.4, 14, tint="green")),
        _stripes("green", "gradient", 80, 24),
    ),
    "lion-and-sunflower": Scene(
        (Thing("lion", 0.66, 0.42, 0.54, 6), Thing("sunflower", 0.26, 0.68, 0.42, -14)), Background("white"), "flat"
    ),
    "frog-and-mushroom": Scene(
        (Thing("frog", 0.3, 0.4, 0.44, 12), Thing("mushroom", 0.7, 0.64, 0.48, -10)), _stripes("pink", "dots", 20, 22)
    ),
    "burger-and-doughnut": Scene(
        (Thing("burger", 0.32, 0.34, 0.48, -10, True), Thing("doughnut", 0.7, 0.7, 0.44, 20)),
        _stripes("gray", "checks", 15, 28),
        "flat",
    ),
    "panda-and-cupcake": Scene(
        (Thing("panda", 0.68, 0.36, 0.5, -10), Thing("cupcake", 0.3, 0.68, 0.44, 12)), Background("green")
    ),
    "owl": Scene((Thing("owl", 0.42, 0.56, 0.62, 10),), Background("red", pattern="snow", amount=0.2, seed=9), "flat"),
}
"""Stem of the file -> what it shows."""


def write_examples(folder: Path = EXAMPLES) -> None:
    """Renders the examples and writes `examples.json` beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = to_images(render(list(SCENES.values()), shipped_atlas())[0])
    entries = []
    for (stem, scene), image in zip(SCENES.items(), images, strict=True):
        image.save(folder / f"{stem}.png", optimize=True)
        entries.append({"file": f"{stem}.png", "prompt": caption(scene), "scene": asdict(scene)})
    (folder / "examples.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_examples()
