"""How well images fit texts, from the features of a dual encoder such as CLIP."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sfumato.metrics.values import checked_finite


def text_agreement(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of image and text, the CLIP score (Hessel et al., 2021, https://arxiv.org/abs/2104.08718, unscaled).

    Args:
        image_features: (..., dim), of any length.
        text_features: (..., dim), broadcastable to it.

    Returns:
        (...,), in [-1, 1]; higher is better. Differentiable.

    Raises:
        ValueError: The features are not of one encoder, or hold NaN or infinity.
    """
    return F.cosine_similarity(*_together(image_features, text_features), dim=-1)


def clip_score(image_features: Tensor, text_features: Tensor) -> Tensor:
    """The same on the scale of most tables, 100 max(cosine, 0), as torchmetrics computes it.

    Range [0, 100]; higher is better. Name the encoder beside the value: the scores of two CLIP models do not compare.
    Arguments and shapes as for `text_agreement`.
    """
    return 100 * text_agreement(image_features, text_features).clamp(min=0)


def directional_agreement(
    image_features: Tensor, source_image_features: Tensor, target_text_features: Tensor, source_text_features: Tensor
) -> Tensor:
    """Whether an image changed as its text did: the cosine of the two changes, D-CLIP.

    The changes are those of the features at unit length. Where nothing changed the value is 0.

    Reference: Gal et al., 2021, https://arxiv.org/abs/2108.00946 (their directional loss is 1 minus this); Wu and
    De la Torre, 2022, https://arxiv.org/abs/2210.05559, rank the candidates of an edit by it.

    Args:
        image_features, source_image_features: Of the edited and the original image, (..., dim), of any length.
        target_text_features, source_text_features: Of what they show, (..., dim). All four broadcast.

    Returns:
        (...,), in [-1, 1]; higher is better. Differentiable.

    Raises:
        ValueError: As `text_agreement`.
    """
    images = _together(image_features, source_image_features)
    texts = _together(target_text_features, source_text_features)
    changes = [F.normalize(after, dim=-1) - F.normalize(before, dim=-1) for after, before in (images, texts)]
    return F.cosine_similarity(*_together(*changes), dim=-1)


def _together(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"features must come from one encoder, got {first.shape[-1]} and {second.shape[-1]} dimensions"
        )
    return checked_finite(first, "features"), checked_finite(second, "features")
