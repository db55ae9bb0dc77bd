"""Pools of rendered scenes to train and judge on: rendered once, kept in the cache, recoloured on the fly."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sfumato.emoji.training.data import Renderer, cache_folder, composite
from sfumato.emoji.world import (
    BACKGROUND_JITTER,
    BACKGROUNDS,
    STYLES,
    Concept,
    Scene,
    held_out_pairs,
    sample_scene,
)
from sfumato.files import written_whole


@dataclass(frozen=True)
class Pool:
    """Scenes and their sprites.

    Attributes:
        sprites: Straight-alpha RGBA, uint8, (count, size, size, 4).
        scenes: The scene of each sprite.
    """

    sprites: np.ndarray
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    def draw(self, indices: Sequence[int], generator: random.Random) -> tuple[np.ndarray, list[Scene]]:
        """Puts sprites on freshly drawn background colours: RGB (count, size, size, 3) uint8, and their scenes."""
        scenes = []
        for index in indices:
            background = generator.choice(list(BACKGROUNDS))
            red, green, blue = (
                min(255, max(0, value + generator.randint(-BACKGROUND_JITTER, BACKGROUND_JITTER)))
                for value in BACKGROUNDS[background]
            )
            scenes.append(replace(self.scenes[index], background=background, background_rgb=(red, green, blue)))
        return composite(self.sprites[list(indices)], [scene.colour for scene in scenes]), scenes

    def images(self) -> np.ndarray:
        """Puts every sprite on its own scene's colour: RGB uint8, (count, size, size, 3)."""
        return composite(self.sprites, [scene.colour for scene in self.scenes])


def build_pool(
    concepts: Sequence[Concept],
    per_pair: int,
    *,
    size: int = 64,
    seed: int = 0,
    flip_probability: float = 0.0,
    pairs: str = "trained",
) -> Pool:
    """Renders `per_pair` random scenes of each (concept, style), or reads them from the cache.

    Args:
        concepts: What to draw.
        per_pair: Scenes of each (concept, style).
        size: Side in pixels.
        seed: Seed of the scenes.
        flip_probability: Chance of a mirror image.
        pairs: "trained" leaves the held-out pairs out, "held-out" takes only them, "all" both.

    Returns:
        The pool, ordered by concept, style and draw.
    """
    if pairs not in ("trained", "held-out", "all"):
        raise ValueError(f"pairs must be 'trained', 'held-out' or 'all', got {pairs!r}")
    held_out = set(held_out_pairs(concepts))
    generator = random.Random(seed)
    scenes = [
        sample_scene(concept, style, generator, flip_probability=flip_probability)
        for concept in concepts
        for style in STYLES
        if pairs == "all" or ((concept.name, style) in held_out) == (pairs == "held-out")
        for _ in range(per_pair)
    ]
    key = hashlib.sha256(repr((size, scenes)).encode()).hexdigest()[:16]
    file = cache_folder() / f"pool-{key}.npy"
    if not file.exists():
        renderer = Renderer(concepts)
        sprites = np.empty((len(scenes), size, size, 4), np.uint8)
        for index, scene in enumerate(scenes):
            sprites[index] = renderer.sprite(scene, size)
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as part, part.open("wb") as stream:
            np.save(stream, sprites)
    return Pool(np.load(file, mmap_mode="r"), scenes)
