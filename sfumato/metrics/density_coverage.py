"""Density and coverage: whether images look real, and whether all kinds of real images occur."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.metrics.features import checked_pair


class DensityCoverage(NamedTuple):
    """Fidelity and diversity.

    Attributes:
        density: Range [0, inf); near 1 for images like the real ones, above where they crowd the densest regions.
        coverage: Share of real images that have a made one near by, in [0, 1]; higher is better.
    """

    density: float
    coverage: float


def density_coverage(features: Tensor, real_features: Tensor, *, neighbours: int = 5) -> DensityCoverage:
    r"""Compares made images with real ones, each real one surrounded by the ball that reaches its k-th neighbour.

    .. math:: D = \frac{1}{k M} \sum_{j} \sum_{i} 1[y_j \in B_i], \qquad
              C = \frac{1}{N} \sum_{i} 1[\exists j: y_j \in B_i], \qquad B_i = B(x_i, \mathrm{NND}_k(x_i))

    The balls are open, as in the authors' code. In float64. With two sets of one size from one distribution the
    coverage expected is 1 - (1/2)^k or a little more.

    Reference: Naeem et al., 2020, https://arxiv.org/abs/2002.09797, Eq. 6 and 7.

    Args:
        features: Of the made images, (M, dim).
        real_features: Of the real ones, (N, dim), more than `neighbours`.
        neighbours: k.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, or too few real images.
    """
    made, real = checked_pair(features, real_features, at_least=1)
    if not 1 <= neighbours < len(real):
        raise ValueError(f"neighbours must be in 1..{len(real) - 1} for {len(real)} real images, got {neighbours}")
    exact = "donot_use_mm_for_euclid_dist"
    among_real = torch.cdist(real, real, compute_mode=exact)
    radius = among_real.kthvalue(neighbours + 1, dim=1).values  # the first is the image itself
    inside = torch.cdist(real, made, compute_mode=exact) < radius[:, None]  # (real, made)
    return DensityCoverage(
        density=float(inside.sum()) / (neighbours * len(made)), coverage=float(inside.any(dim=1).double().mean())
    )
