"""CLIP accuracy: whether a result is more like the target text than like the source text."""

from __future__ import annotations

from torch import Tensor

from sfumato.metrics.text_agreement import text_agreement


def clip_accuracy(image_features: Tensor, target_text_features: Tensor, source_text_features: Tensor) -> float:
    """Gives the share of images whose features are nearer to the target text than to the source text.

    Range [0, 1]; higher is better. A tie counts as a failure. Needs the features of a dual encoder, CLIP or the
    embedded one: they are not comparable with each other.

    Reference: Parmar et al., 2023 (pix2pix-zero), https://arxiv.org/abs/2302.03027, section 5.

    Args:
        image_features: Of the edited images, (count, dim), of any length.
        target_text_features, source_text_features: (dim,) or (count, dim), of "a dog" and "a cat".

    Raises:
        ValueError: There are no images, the dimensions differ, or a feature is NaN or infinite.
    """
    if image_features.ndim != 2 or not len(image_features):
        raise ValueError(f"image_features must be (count, dim), one at least, got {tuple(image_features.shape)}")
    nearer = text_agreement(image_features, target_text_features) > text_agreement(image_features, source_text_features)
    return float(nearer.double().mean())
