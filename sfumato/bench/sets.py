"""Distances between sets of images, with the feature networks that are on this computer; each is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sfumato.images import load_image, to_pixels
from sfumato.metrics.features import FeatureNetwork, features_of
from sfumato.metrics.frechet import frechet_distance
from sfumato.metrics.kernel import kernel_distance
from sfumato.metrics.weights import MissingNetworkError

LEAST = 10
BATCH = 32
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
    """Fréchet and kernel distance of two sets in each network's eyes; none where a set is smaller than ten images.

    The kernel's subsets have 100 images; where a set holds fewer, the name of the figure says how many.

    Args:
        first, second: Images, or files of them, of any sizes.

    Raises:
        ImageError: A file is gone or damaged.
    """
    size = min(SUBSET, len(first), len(second))
    if size < LEAST:
        return {}
    subsets = "" if size == SUBSET else f", subsets of {size}"
    found: dict[str, float | None] = {}
    for name, network in feature_networks().items():
        a, b = (set_features(images, network) for images in (first, second))
        found[f"Fréchet ({name})"] = frechet_distance(a, b)
        generator = torch.Generator().manual_seed(0)
        kernel = kernel_distance(a, b, num_subsets=SUBSETS, subset_size=size, generator=generator)
        found[f"kernel x 1000 ({name}{subsets})"] = 1000 * kernel.mean
    return found


def set_features(images: Sequence[Image.Image | Path], network: FeatureNetwork) -> Tensor:
    """Features of images, or files of them, of any sizes; (count, dim). They are read a few at a time.

    Raises:
        ImageError: A file is gone or damaged.
    """
    return torch.cat([features_of(batch, network) for batch in _batches(images)])


def _batches(images: Sequence[Image.Image | Path]) -> Iterator[Tensor]:
    """Pixels in order, as many at once as have one size, 32 at most."""
    waiting: list[Tensor] = []
    for image in images:
        pixels = to_pixels(load_image(image).image)
        if waiting and (len(waiting) == BATCH or waiting[0].shape != pixels.shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(pixels)
    if waiting:
        yield torch.cat(waiting)
