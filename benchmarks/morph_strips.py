"""Draws docs/morphs.png and docs/morph.gif: IMPUS on four pairs of emoji, frame by frame, and how even its steps are.

    python benchmarks/morph_strips.py [--method impus] [--out docs]

The pairs are those of benchmarks/morphs.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from morphs import PAIRS, prompt
from PIL import Image

import sfumato
from sfumato.bench.scenes import rendered
from sfumato.emoji.render import shipped_atlas

SHOWN = 4


def main() -> None:
    """Morphs and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="impus")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    model, parts = sfumato.load_model("emoji"), []
    for number, pair in enumerate(PAIRS[:SHOWN]):
        scenes = (pair.first, pair.second)
        images = rendered(list(scenes), shipped_atlas())
        found = sfumato.morph(model, *images, prompts=[prompt(scene) for scene in scenes], method=args.method)
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
