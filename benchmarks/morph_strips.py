"""Draws docs/morphs.png and docs/morph.gif: IMPUS on four pairs of emoji, frame by frame, and how even its steps are.

    python benchmarks/morph_strips.py [--method impus] [--out docs]

The pairs are those of benchmarks/morphs.py. Needs the emoji drawings (`python -m sfumato.emoji.training.data`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from morphs import PAIRS
from PIL import Image

import sfumato
from sfumato.emoji.training.data import Renderer
from sfumato.emoji.world import caption

SHOWN = 4


def main() -> None:
    """Morphs and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="impus")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    model, renderer, parts = sfumato.load_model("emoji"), Renderer(), []
    for number, pair in enumerate(PAIRS[:SHOWN]):
        scenes = (pair.first, pair.second)
        images = [renderer.render(scene).convert("RGB") for scene in scenes]
        found = sfumato.morph(model, *images, prompts=[caption(scene) for scene in scenes], method=args.method)
        print(f"{pair.name}: largest step over mean {found.spread:.2f}, ends {found.endpoint_psnr}, {found.cost}")
        parts.append(found.film_strip())
        if number == 0:
            found.save(args.out / "morph.gif")
            plot = found.plot()
    parts.append(plot)
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    sheet.quantize(256).save(args.out / "morphs.png", optimize=True)


if __name__ == "__main__":
    main()
