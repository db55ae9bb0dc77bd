"""Conditions between two others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.models.base import Condition


def mixed_condition(condition: Condition, weights: Sequence[float]) -> Condition:
    """Embeddings on the straight line between two, one row a weight.

    Args:
        condition: The two rows.
        weights: 0 = the first, 1 = the second.
    """

    def mix(tensor: Tensor) -> Tensor:
        parts = torch.tensor(weights, dtype=tensor.dtype, device=tensor.device)
        return torch.lerp(tensor[:1], tensor[1:], parts.view(-1, *[1] * (tensor.ndim - 1)))

    pooled = condition.pooled_embeds
    return Condition(mix(condition.prompt_embeds), None if pooled is None else mix(pooled))
