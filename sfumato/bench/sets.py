"""Distances between sets of pictures, with whatever feature networks are on this computer; each is named."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sfumato.images import to_pixels
from sfumato.metrics.features import FeatureNetwork, features_of
from sfumato.metrics.frechet import frechet_distance
from sfumato.metrics.kernel import kernel_distance
from sfumato.metrics.weights import MissingNetworkError

LEAST = 10
SUBSETS, SUBSET = 50, 100


def feature_networks() -> dict[str, FeatureNetwork]:
    """The networks that are here, by name: the emoji world's own encoder, and EfficientNet where it is installed."""
    from sfumato.emoji.perceptual import EfficientNetFeatures, EmojiFeatures

    found: dict[str, FeatureNetwork] = {"emoji-clip": EmojiFeatures()}
    with suppress(MissingNetworkError):
        found["efficientnet-lite0"] = EfficientNetFeatures()
    return found


@torch.no_grad()
def set_distances(first: Sequence[Image.Image | Path], second: Sequence[Image.Image | Path]) -> dict[str, float | None]:
    """Fréchet and kernel distance of two sets in each network's eyes; none where a set is smaller than ten pictures.

    Args:
        first, second: Pictures, or files of them; all of one size.
    """
    if min(len(first), len(second)) < LEAST:
        return {}
    found: dict[str, float | None] = {}
    pixels = [torch.cat([_pixels(one) for one in pictures]) for pictures in (first, second)]
    for name, network in feature_networks().items():
        a, b = (features_of(one, network) for one in pixels)
        found[f"Fréchet ({name})"] = frechet_distance(a, b)
        generator = torch.Generator().manual_seed(0)
        kernel = kernel_distance(a, b, num_subsets=SUBSETS, subset_size=SUBSET, generator=generator)
        found[f"kernel x 1000 ({name})"] = 1000 * kernel.mean
    return found


def _pixels(picture: Image.Image | Path) -> Tensor:
    if isinstance(picture, Image.Image):
        return to_pixels(picture)
    with Image.open(picture) as image:
        return to_pixels(image.convert("RGB"))
