"""What a student is trained by: the teacher's pixels, their edges, perceptual features, the gate, and a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sfumato.distillation.student import Edited
from sfumato.metrics.distance import Distance

CHANGED = 0.12
"""A pixel that the teacher changes by more, in any channel of [-1, 1], is part of the edit."""


@dataclass(frozen=True)
class Weights:
    """How much each loss counts.

    Attributes:
        changed: By how much more the pixels count that the teacher changed.
        edges: Differences of neighbouring pixels.
        features: The perceptual distance.
        gate: That the gate is open where the teacher changed something, and closed elsewhere.
        adversarial: The critic's verdict.
    """

    changed: float = 2.0
    edges: float = 1.0
    features: float = 0.5
    gate: float = 0.3
    adversarial: float = 0.02


def changed_by(sources: Tensor, targets: Tensor) -> Tensor:
    """Where the teacher changed the image, and one pixel around, 0 or 1, (batch, 1, height, width)."""
    differs = ((targets - sources).abs().amax(dim=1, keepdim=True) > CHANGED).float()
    return F.max_pool2d(differs, 3, stride=1, padding=1)


def terms(
    edited: Edited, sources: Tensor, targets: Tensor, weights: Weights, distance: Distance | None
) -> dict[str, Tensor]:
    """The losses against the teacher by name, weighted; their sum is what is minimised.

    Args:
        edited: What the student made of the sources.
        sources, targets: Pixels in [-1, 1], (batch, 3, height, width).
        weights: How much each counts.
        distance: Differentiable perceptual distance; None: there is none.
    """
    changed = changed_by(sources, targets)
    wrong = (edited.pixels - targets).abs()
    found = {
        "pixels": (wrong * (1.0 + weights.changed * changed)).mean(),
        "edges": weights.edges * edge_difference(edited.pixels - targets),
    }
    if edited.gate is not None:
        found["gate"] = weights.gate * F.binary_cross_entropy_with_logits(edited.gate, 1.0 - changed)
    if distance is not None and weights.features:
        found["features"] = weights.features * distance(edited.pixels.clamp(-1, 1), targets).mean()
    return found


def edge_difference(difference: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, along both axes; 0 for what is the same everywhere."""
    across, down = difference.diff(dim=3).abs().mean(), difference.diff(dim=2).abs().mean()
    return across + down


class Critic(nn.Module):
    """Says of patches of (source, result) whether the teacher made them; spectrally normalised.

    Reference: Isola et al., 2017, https://arxiv.org/abs/1611.07004, its patch discriminator; Miyato et al., 2018,
    https://arxiv.org/abs/1802.05957.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(6, width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 1, 3, 1, 1)),
        )

    def forward(self, sources: Tensor, results: Tensor) -> Tensor:
        """Pixels of both, (batch, 3, height, width), to scores of patches; high: the teacher's."""
        scores: Tensor = self.layers(torch.cat([sources, results], dim=1))
        return scores

    def loss(self, sources: Tensor, targets: Tensor, results: Tensor) -> Tensor:
        """The hinge loss that the critic learns by."""
        right, wrong = self(sources, targets), self(sources, results.detach())
        return F.relu(1.0 - right).mean() + F.relu(1.0 + wrong).mean()
