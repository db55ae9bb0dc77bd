"""Does the distance of `emoji-clip` grow with what was done to an image? Rank correlations, written as JSON.

    python benchmarks/emoji_distance.py [--images 80] [--json docs/emoji/distance.json]

Renders trained scenes, distorts each by rising amounts of blur, noise, shift, colour change and concept change, and
reports Spearman's rank correlation of amount and distance: of the mean distance at each amount, and the mean over
images. The distance is `sfumato.emoji.perceptual.EmojiDistance`; beside it stand its two halves by themselves: the
layers of the trunk compared place by place, and 1 - cosine of the embeddings. Concept change goes by steps: the same
scene, one thing of it replaced by a near concept, by a far one, all of its things replaced by far ones.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.stats import spearmanr
from torch import Tensor

from sfumato.emoji.perceptual import EmojiDistance
from sfumato.emoji.render import render, shipped_atlas
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import Scene, World, moved
from sfumato.emoji.training.sheets import to_images, to_pixels

Distort = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Series:
    """Images changed by rising amounts.

    Attributes:
        amounts: What was done, from nothing up.
        pixels: One (images, 3, 128, 128) an amount, in [-1, 1]; the first is the originals.
        scenes: What the last amount shows, where another thing is shown than in the originals.
    """

    amounts: list[float]
    pixels: list[Tensor]
    scenes: list[Scene] | None = None


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--json", type=Path, default=Path("docs/emoji/distance.json"))
    args = parser.parse_args()

    _, series = distorted(args.images)
    distance = EmojiDistance()
    whole, layers, cosine = {}, {}, {}
    for name, one in series.items():
        found = [_halves(distance, one.pixels[0], pixels) for pixels in one.pixels]
        layers[name], cosine[name] = (summary(one.amounts, np.array([pair[k] for pair in found])) for k in (0, 1))
        whole[name] = summary(one.amounts, np.array([distance(one.pixels[0], pixels) for pixels in one.pixels]))
    result = {
        "images": args.images,
        "distance": "EmojiDistance: half the layers of emoji-clip's trunk, half 1 - cosine of the embeddings",
        "measured": whole,
        "layers alone": layers,
        "1 - cosine alone": cosine,
    }
    print(json.dumps(result, indent=1))
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def distorted(count: int, seed: int = 0) -> tuple[list[Scene], dict[str, Series]]:
    """Renders scenes and changes them: (scenes, name of the change to what came of it)."""
    draw, world = random.Random(seed), shipped_atlas().world
    scenes = [sample_scene(world, draw) for _ in range(count)]
    pixels = rendered(scenes)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))

    def blur(pixels: Tensor, radius: float) -> Tensor:
        images = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)) for image in to_images(pixels)]
        return to_pixels(np.stack([np.asarray(image) for image in images]))

    distortions: dict[str, tuple[list[float], Distort]] = {
        "blur (radius, px)": ([0, 0.5, 1, 1.5, 2, 3, 4], blur),
        "noise (std, of 1)": ([0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5], lambda p, a: (p + 2 * a * noise).clamp(-1, 1)),
        "shift (px)": ([0, 1, 2, 4, 6, 9, 12], _shifted),
        "colour (share of the way to swapped channels)": (
            [0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0],
            lambda p, a: p.lerp(p[:, [2, 0, 1]], a),
        ),
    }
    series = {
        name: Series(amounts, [distort(pixels, amount) for amount in amounts])
        for name, (amounts, distort) in distortions.items()
    }
    levels = [[_changed(scene, level, world, draw) for scene in scenes] for level in range(4)]
    changed = [rendered(level) for level in levels]
    series["concept (level)"] = Series([0, 1, 2, 3], changed, levels[-1])
    return scenes, series


def rendered(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' images, (scenes, 3, 128, 128), in [-1, 1]."""
    return render(scenes, shipped_atlas())[0]


def summary(amounts: list[float], distances: np.ndarray) -> dict[str, object]:
    """Rank correlations of amounts and distances (amounts, images).

    An image that a change leaves as it is (grey, under a swap of colour channels) has no ranks and is left out.
    """
    moved = np.ptp(distances, axis=0) > 0
    each = [float(spearmanr(amounts, column).statistic) for column in distances[:, moved].T]
    means = distances.mean(axis=1)
    return {
        "amounts": amounts,
        "mean_distance": [round(float(mean), 4) for mean in means],
        "rank_correlation_of_means": round(float(spearmanr(amounts, means).statistic), 3),
        "rank_correlation_mean_over_images": round(float(np.mean(each)), 3),
    }


def _halves(distance: EmojiDistance, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The layers' part and 1 - cosine, (images,) each."""
    embeddings = [distance.network.encode_image(pixels) for pixels in (first, second)]  # type: ignore[operator]
    apart = (embeddings[0] - embeddings[1]).square().sum(dim=-1) / 2
    return 2 * distance(first, second) - apart, apart


def _shifted(pixels: Tensor, by: float) -> Tensor:
    """To the right; the left edge is drawn out, so that no second edge comes in."""
    columns = (torch.arange(pixels.shape[-1]) - round(by)).clamp(min=0)
    return pixels[..., columns]


def _changed(scene: Scene, level: int, world: World, draw: random.Random) -> Scene:
    """Replaces nothing, the first thing by a near concept or by a far one, all things by far ones."""
    for index in range(min(level, 1) if level < 3 else len(scene.things)):
        thing = scene.things[index]
        others = world.near(thing.concept) if level == 1 else world.far(thing.concept)
        scene = moved(scene, index, concept=draw.choice(others), tint=None)
    return scene


if __name__ == "__main__":
    main()
