"""The example images of the demo: real drawings, not generated ones.

`python -m sfumato.emoji.training.make_examples` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path

from sfumato.emoji.training.data import Renderer
from sfumato.emoji.world import Scene, caption

SCENES = (
    Scene("cat face", "noto", "blue"),
    Scene("dog face", "twemoji", "yellow"),
    Scene("fox", "flat", "green"),
    Scene("bear", "glossy", "pink"),
    Scene("panda", "noto", "purple"),
    Scene("lion", "twemoji", "white"),
    Scene("red apple", "noto", "white"),
    Scene("strawberry", "flat", "yellow"),
    Scene("pizza", "twemoji", "green"),
    Scene("red heart", "glossy", "white"),
    Scene("star", "twemoji", "blue"),
    Scene("frog", "noto", "pink"),
)
FOLDER = Path(__file__).parent / "examples"


def write_examples(folder: Path = FOLDER, size: int = 64) -> None:
    """Renders the examples and writes `examples.json` beside them.

    Args:
        folder: Where they go.
        size: Side in pixels.
    """
    renderer, entries = Renderer(), []
    folder.mkdir(parents=True, exist_ok=True)
    for scene in SCENES:
        file = f"{scene.concept.replace(' ', '-')}.png"
        renderer.render(scene, size).save(folder / file, optimize=True)
        entries.append(
            {
                "file": file,
                "prompt": caption(scene),
                "concept": scene.concept,
                "style": scene.style,
                "background": scene.background,
                "position": list(scene.position),
                "scale": scene.scale,
            }
        )
    (folder / "examples.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_examples()
