"""How like the images of the emoji world frames are, by features of networks."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.bench.sets import feature_networks
from sfumato.emoji.render import render, shipped_atlas
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import Scene
from sfumato.metrics.density_coverage import density_coverage
from sfumato.metrics.features import features_of
from sfumato.metrics.kernel import unbiased_mmd


class Realism:
    """How like real emoji images are, among renderings of the whole world, in the features of a network.

    `density` is near 1 for images like the real ones. `far_from_real` is the mean distance to the nearest real
    image, over that of other real images: 1 for images like the real ones, more the less they are. `kernel` is
    the kernel distance (KID's) to the real images, times 1000, `coverage` the share of real ones with a frame near.
    """

    def __init__(self, count: int) -> None:
        draw, world = random.Random(0), shipped_atlas().world
        self.networks = feature_networks()
        self.pixels = self.rendered([sample_scene(world, draw, may=True) for _ in range(2 * count)])
        self._features: dict[str, Tensor] = {}

    def rendered(self, scenes: Sequence[Scene]) -> Tensor:
        """Pixels, (scene, 3, H, W) in [-1, 1]."""
        batches = [scenes[start : start + 32] for start in range(0, len(scenes), 32)]
        return torch.cat([render(batch, shipped_atlas())[0] for batch in batches])

    def __call__(self, pixels: Tensor) -> dict[str, float]:
        """Of one morph, by the emoji world's own encoder."""
        figures = self._of(pixels, "emoji-clip")
        return {name: figures[name] for name in ("density", "far_from_real")}

    def of_many(self, pixels: Tensor) -> dict[str, dict[str, float]]:
        """Of many morphs' frames together, by each network."""
        return {name: self._of(pixels, name) for name in self.networks}

    def others(self, count: int) -> Tensor:
        """So many other real images."""
        return self.pixels[1::2][:count]

    def _of(self, pixels: Tensor, name: str) -> dict[str, float]:
        if name not in self._features:
            self._features[name] = features_of(self.pixels, self.networks[name])
        real, others = self._features[name][::2], self._features[name][1::2]
        features = features_of(pixels, self.networks[name])
        among = density_coverage(features, real)
        return {
            "kernel": round(1000 * unbiased_mmd(features, real), 3),
            "density": round(among.density, 3),
            "coverage": round(among.coverage, 3),
            "far_from_real": round(nearest(features, real) / nearest(others, real), 3),
        }


def nearest(features: Tensor, real: Tensor) -> float:
    """Mean distance to the nearest real image."""
    return float(torch.cdist(features, real).min(dim=1).values.mean())
