"""Pairs that a student learns from: images, and what the teacher made of them, with equal changes to both sides."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.errors import UsageError

HELD_OUT = 0.1
FEWEST = 32
"""Pairs that a student can be trained on."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of one size, in bytes.

    Attributes:
        names: Of each pair, all different.
        sources, targets: uint8, (pairs, 3, height, width).
    """

    names: tuple[str, ...]
    sources: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.sources.shape[3], self.sources.shape[2]

    def digest(self) -> str:
        """SHA-256 of all pixels."""
        found = hashlib.sha256(str(tuple(self.sources.shape)).encode())
        for part in (self.sources, self.targets):
            found.update(part.contiguous().numpy().tobytes())
        return found.hexdigest()

    def some(self, rows: Sequence[int]) -> Pairs:
        """Those of these numbers, in their order."""
        chosen = list(rows)
        return Pairs(tuple(self.names[row] for row in chosen), self.sources[chosen], self.targets[chosen])

    def split(self) -> tuple[Pairs, Pairs]:
        """Those that are trained on, and those held out: one in ten, by their names.

        Pairs of one source are all held out or none, as long as that leaves half of the pairs to be trained on.
        """
        order = sorted(range(len(self)), key=lambda row: hashlib.sha256(self.names[row].encode()).hexdigest())
        count = max(2, round(HELD_OUT * len(self)))
        alike: dict[bytes, list[int]] = {}
        for row in order:
            alike.setdefault(hashlib.sha256(self.sources[row].contiguous().numpy().tobytes()).digest(), []).append(row)
        held_out: set[int] = set()
        for rows in alike.values():
            if len(held_out) < count and len(held_out) + len(rows) <= len(self) // 2:
                held_out.update(rows)
        held_out = held_out or set(order[:count])
        return self.some([k for k in range(len(self)) if k not in held_out]), self.some(sorted(held_out))

    def pixels(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sources and targets of some pairs, in [-1, 1], (rows, 3, height, width)."""
        chosen = list(rows)
        return as_pixels(self.sources[chosen]), as_pixels(self.targets[chosen])


def check_count(kept: int, reasons: Sequence[str]) -> None:
    """Refuses pairs that are too few to learn from.

    Args:
        kept: Pairs that can be used.
        reasons: Why each pair is left out; "" where it is not.

    Raises:
        UsageError: Says how many are missing, and why most are.
    """
    if kept < FEWEST:
        kinds = Counter(reason.partition(" (")[0] for reason in reasons if reason)
        most = "; left out: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) if kinds else ""
        raise UsageError(
            f"{kept} of {len(reasons)} pairs can be used, and a student needs {FEWEST}: give at least {FEWEST - kept}"
            f" more images, or keep more of the pairs{most}"
        )


def check_enough(images: int, keep: float, more: str = "") -> None:
    """Refuses images that are too few to learn from, before anything is made of them.

    Args:
        images: How many there are, all different.
        keep: Share of the pairs that is kept at most.
        more: What else to say.

    Raises:
        UsageError: Says how many are missing.
    """
    if round(keep * images) < FEWEST:
        least = next(count for count in itertools.count(FEWEST) if round(keep * count) >= FEWEST)
        share = "" if keep == 1.0 else f", of which {keep:g} are kept at most (keep)"
        raise UsageError(
            f"there are {images} different images to edit{share}, and a student needs {FEWEST} pairs: give at least"
            f" {least - images} more{more}"
        )


def as_pixels(images: Tensor) -> Tensor:
    """uint8 to float32 pixels in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def as_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] to uint8."""
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8)


def rows_of_step(step: int, batch: int, count: int, seed: int) -> list[int]:
    """Which pairs are in the batch of a step: every epoch sees each pair once, in an order of its own."""
    rows = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, within = divmod(place, count)
        generator = torch.Generator().manual_seed(seed + epoch)
        rows.append(int(torch.randperm(count, generator=generator)[within]))
    return rows


def moved_alike(
    sources: Tensor, targets: Tensor, generator: torch.Generator, *, shift: float, mirror: bool
) -> tuple[Tensor, Tensor]:
    """Moves both sides of each pair by the same random amount, and mirrors every other pair.

    Args:
        sources, targets: Pixels, (batch, 3, height, width).
        generator: Of all draws.
        shift: Most, as a share of the sides; what comes in repeats the edge.
        mirror: Whether left and right may change places.
    """
    height, width = sources.shape[2:]
    most = [int(shift * side) for side in (height, width)]
    both = torch.cat([sources, targets], dim=1)
    padded = F.pad(both, (most[1], most[1], most[0], most[0]), mode="replicate")
    found = []
    for one in padded:
        top, left = (int(torch.randint(2 * side + 1, (), generator=generator)) for side in most)
        cut = one[:, top : top + height, left : left + width]
        flipped = mirror and bool(torch.rand((), generator=generator) < 0.5)
        found.append(cut.flip(2) if flipped else cut)
    stacked = torch.stack(found)
    return stacked[:, :3], stacked[:, 3:]


def turned_alike(sources: Tensor, targets: Tensor, generator: torch.Generator, *, hue: float) -> tuple[Tensor, Tensor]:
    """Turns the hues of both sides of each pair by the same random angle; an edit of shapes commutes with that.

    The colours' plane of YIQ is turned, so that luma stays; what leaves [-1, 1] is cut.

    Args:
        sources, targets: Pixels, (batch, 3, height, width).
        generator: Of all draws.
        hue: Largest angle, degrees; 0: nothing is drawn.
    """
    if not hue:
        return sources, targets
    angles = torch.deg2rad(hue * (2.0 * torch.rand(len(sources), generator=generator) - 1.0))
    cos, sin, plain = angles.cos(), angles.sin(), torch.zeros(len(sources))
    turn = torch.stack([plain + 1, plain, plain, plain, cos, -sin, plain, sin, cos], dim=1).view(-1, 3, 3)
    matrix = torch.linalg.inv(_YIQ) @ turn @ _YIQ
    turned = [torch.einsum("bij,bjhw->bihw", matrix, side).clamp(-1.0, 1.0) for side in (sources, targets)]
    return turned[0], turned[1]


_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""RGB to luma and two axes of colour (NTSC)."""
