"""Residual convolutions that the embedded judge and the embedded dual encoder are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut; halves the resolution when `stride` is 2."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, inner, height, width) to (batch, outer, height / stride, width / stride)."""
        return functional.relu(self.body(hidden_states) + self.shortcut(hidden_states))


class Trunk(nn.Module):
    """A residual convolutional network: pixels (batch, 3, size, size) in [-1, 1] to features (batch, width)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[-1]
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, 2, 2), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for inner, outer in pairwise(widths):
            stages.append(ResidualBlock(inner, outer, 2))
        self.stages = nn.Sequential(*stages)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, 3, size, size) to (batch, width)."""
        features: torch.Tensor = self.stages(pixels).mean(dim=(2, 3))
        return features
