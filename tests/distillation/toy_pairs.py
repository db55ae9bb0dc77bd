"""Pairs of an edit that a small student can learn: red squares on plain backgrounds become blue."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.distillation.pairs import Pairs
from sfumato.distillation.student import Arch

SMALL = Arch(width=8, levels=2, block=2)


def squares(count: int, seed: int = 0, side: int = 16) -> Pairs:
    """Pairs whose answer is exact."""
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randint(60, 200, (count, 3, 1, 1), generator=generator, dtype=torch.uint8).repeat(1, 1, side, side)
    targets = sources.clone()
    for row in range(count):
        top, left = (int(torch.randint(side // 2, (), generator=generator)) for _ in range(2))
        place = (row, slice(None), slice(top, top + side // 2), slice(left, left + side // 2))
        sources[place] = colour(250, 20, 20)
        targets[place] = colour(20, 20, 250)
    return Pairs(tuple(f"pair-{row:03d}" for row in range(count)), sources, targets)


def colour(*values: int) -> Tensor:
    """An RGB colour, (3, 1, 1)."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None]
