"""Does the distance of `emoji-clip` grow with what was done to a picture? Rank correlations, written as JSON.

    python benchmarks/emoji_distance.py [--pictures 80] [--json docs/emoji/distance.json]

Renders trained scenes, distorts each by rising amounts of blur, shift, colour change and concept change, and reports
Spearman's rank correlation of amount and distance: of the mean distance at each amount, and the mean over pictures. The
distance is 1 - cosine of the two pictures' embeddings, in [0, 2]. Concept change goes by steps: the same drawing,
another drawing style of the same concept, another concept of the same group, a concept of another group. Needs the
emoji drawings (`python -m sfumato.emoji.data`).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from scipy.stats import spearmanr

from sfumato.emoji import WEIGHTS
from sfumato.emoji.data import Renderer
from sfumato.emoji.dual_encoder import load_dual_encoder
from sfumato.emoji.sheets import to_pixels
from sfumato.emoji.world import STYLES, Concept, Scene, load_concepts

Distort = Callable[[Image.Image, float], Image.Image]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--json", type=Path, default=Path("docs/emoji/distance.json"))
    args = parser.parse_args()

    draw, concepts, renderer = random.Random(0), load_concepts(), Renderer()
    scenes = [
        Scene(draw.choice(concepts).name, draw.choice(list(STYLES)), draw.choice(["white", "blue", "yellow", "pink"]))
        for _ in range(args.pictures)
    ]
    pictures = [renderer.render(scene).convert("RGB") for scene in scenes]
    originals = _embed(pictures)
    distortions: dict[str, tuple[list[float], Distort]] = {
        "blur (radius, px)": ([0, 0.5, 1, 1.5, 2, 3, 4], lambda im, r: im.filter(ImageFilter.GaussianBlur(r))),
        "shift (px)": ([0, 1, 2, 4, 6, 9, 12], lambda im, d: ImageChops.offset(im, round(d), 0)),
        "colour (share of the way to swapped channels)": ([0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0], _recoloured),
    }
    report = {}
    for name, (amounts, distort) in distortions.items():
        distances = [_distances(originals, [distort(im, amount) for im in pictures]) for amount in amounts]
        report[name] = _summary(amounts, np.array(distances))
    changed = [
        [renderer.render(_changed(s, level, concepts, draw)).convert("RGB") for s in scenes] for level in range(4)
    ]
    distances = [_distances(originals, level) for level in changed]
    report["concept change (level)"] = _summary([0, 1, 2, 3], np.array(distances))
    result = {"pictures": args.pictures, "distance": "1 - cosine of emoji-clip's image embeddings", "measured": report}
    print(json.dumps(result, indent=1))
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _summary(amounts: list[float], distances: np.ndarray) -> dict[str, object]:
    """Rank correlations of amounts and distances (amounts, pictures)."""
    each = [spearmanr(amounts, distances[:, k]).statistic for k in range(distances.shape[1])]
    means = distances.mean(axis=1)
    return {
        "amounts": amounts,
        "mean_distance": [round(float(mean), 4) for mean in means],
        "rank_correlation_of_means": round(float(spearmanr(amounts, means).statistic), 3),
        "rank_correlation_mean_over_pictures": round(float(np.mean(each)), 3),
    }


def _changed(scene: Scene, level: int, concepts: list[Concept], draw: random.Random) -> Scene:
    if level == 0:
        return scene
    if level == 1:
        return replace(scene, style=draw.choice([style for style in STYLES if style != scene.style]))
    group = next(concept.group for concept in concepts if concept.name == scene.concept)
    others = [c.name for c in concepts if c.name != scene.concept and (c.group == group) == (level == 2)]
    return replace(scene, concept=draw.choice(others))


def _recoloured(image: Image.Image, share: float) -> Image.Image:
    red, green, blue = image.split()
    return Image.blend(image, Image.merge("RGB", (blue, red, green)), share)


@torch.no_grad()
def _embed(pictures: list[Image.Image]) -> torch.Tensor:
    return _ENCODER.encode_image(to_pixels(np.stack([np.asarray(picture) for picture in pictures])))


def _distances(originals: torch.Tensor, pictures: list[Image.Image]) -> list[float]:
    return (1 - (originals * _embed(pictures)).sum(dim=-1)).tolist()


_ENCODER = load_dual_encoder(WEIGHTS / "emoji-clip.safetensors")

if __name__ == "__main__":
    main()
