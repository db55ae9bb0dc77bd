"""Spherical interpolation of noise, which keeps its norm; linear interpolation would make it smaller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PARALLEL = 0.9995


def slerp(first: Tensor, second: Tensor, weight: float | Tensor, *, dims: Sequence[int] | None = None) -> Tensor:
    r"""Walks the great circle from one vector to another.

    .. math:: \frac{\sin((1-w)\theta)}{\sin\theta}\,a + \frac{\sin(w\theta)}{\sin\theta}\,b, \qquad
              \cos\theta = \frac{a \cdot b}{|a||b|}

    The ends keep their own lengths (they are not normalised). Where they are nearly parallel, opposite or zero, so that
    the angle says nothing, the straight line is walked instead.

    Reference: Shoemake, 1985, https://doi.org/10.1145/325334.325242.

    Args:
        first, second: Of one shape.
        weight: 0 = first, 1 = second; a number, or a tensor that broadcasts.
        dims: The axes that make up one vector; None: all of them.

    Returns:
        The same shape and dtype; computed in float64.
    """
    axes = tuple(range(first.ndim)) if dims is None else tuple(dims)
    start, end = first.double(), second.double()
    part = torch.as_tensor(weight, dtype=torch.float64, device=first.device)
    lengths = start.square().sum(axes, keepdim=True).sqrt() * end.square().sum(axes, keepdim=True).sqrt()
    cosine = (start * end).sum(axes, keepdim=True) / lengths
    straight = ~(cosine.abs() <= PARALLEL)  # true also where a zero vector leaves no angle
    theta = torch.where(straight, torch.ones_like(cosine), cosine).clamp(-1.0, 1.0).arccos()
    theta = torch.where(straight, torch.ones_like(theta), theta)
    along = (((1.0 - part) * theta).sin() * start + (part * theta).sin() * end) / theta.sin()
    result: Tensor = torch.where(straight, torch.lerp(start, end, part.expand_as(start)), along)
    return result.to(first.dtype)
