"""The student: a small gated U-Net that makes one edit in one pass.

It works on blocks of pixels (`pixel_unshuffle`), so that few operations see the whole image, and gives beside the new
pixels a gate, which copies what the edit leaves alone: backgrounds are right from the first step of training on, and
colours that it never saw survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import checks
from sfumato.errors import UsageError

NAME = "gated"
GROUPS = 8
OPEN = 1.0
"""What the gate's logit begins at: most of the image is copied."""


class Edited(NamedTuple):
    """What a student makes of a batch of images.

    Attributes:
        pixels: The edit, (batch, 3, height, width), in [-1, 1].
        gate: Logits of how much of each pixel is copied, (batch, 1, height, width); None: the student has none.
        features: What it saw of the whole image, (batch, channels).
    """

    pixels: Tensor
    gate: Tensor | None
    features: Tensor


@dataclass(frozen=True)
class Arch:
    """How large a student is.

    Attributes:
        width: Channels of the first level, a multiple of 8; each further level has twice as many.
        levels: Resolutions, each half of the one before.
        block: Side in pixels of the blocks that it works on.
    """

    width: int = 32
    levels: int = 3
    block: int = 4

    def __post_init__(self) -> None:
        """Raises UsageError where a value is out of range; nothing of that size is made before."""
        checks.whole("width", self.width, low=GROUPS, high=256)
        if self.width % GROUPS:
            raise UsageError(f"width must be a multiple of {GROUPS}, got {self.width}")
        checks.whole("levels", self.levels, low=1, high=5)
        if self.block not in (1, 2, 4, 8):
            raise UsageError(f"block must be 1, 2, 4 or 8 pixels, got {checks.shown(self.block)}")

    @property
    def multiple(self) -> int:
        """Sides of an image are padded to multiples of this many pixels."""
        return self.block << (self.levels - 1)

    def to_json(self) -> dict[str, Any]:
        """As a file of a student holds it."""
        return {"name": NAME, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Arch:
        """Reads what `to_json` gave.

        Raises:
            UsageError: It is another architecture, or larger than any that is made.
        """
        names = {"name", *asdict(cls())}
        if set(values) != names or values.get("name") != NAME:
            raise UsageError(f"the architecture {checks.shown(dict(values))} is not known to this version")
        whole = partial(checks.whole, low=1, high=1_000)
        return cls(**{name: whole(name, values[name]) for name in names - {"name"}})


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(GROUPS, inner),
            nn.SiLU(),
            nn.Conv2d(inner, outer, 3, padding=1),
            nn.GroupNorm(GROUPS, outer),
            nn.SiLU(),
            nn.Conv2d(outer, outer, 3, padding=1),
        )
        self.shortcut = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, inner, height, width) to (batch, outer, height, width)."""
        output: Tensor = self.body(hidden_states) + self.shortcut(hidden_states)
        return output


class Student(nn.Module):
    """See the module.

    Args:
        arch: How large it is.

    Attributes:
        channels: Of the features in `Edited`.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.arch, self.channels = arch, arch.width << (arch.levels - 1)
        widths = [arch.width * 2**level for level in range(arch.levels)]
        self.stem = nn.Conv2d(3 * arch.block**2, widths[0], 3, padding=1)
        self.seen = nn.ModuleList(Block(width, width) for width in widths[:-1])
        self.smaller = nn.ModuleList(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1) for width in widths[:-1])
        self.middle = nn.Sequential(Block(widths[-1], widths[-1]), Block(widths[-1], widths[-1]))
        self.larger = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths[:-1])
        self.drawn = nn.ModuleList(Block(2 * width, width) for width in widths[:-1])
        self.head = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 4 * arch.block**2, 3, padding=1)
        )
        with torch.no_grad():
            last = self.head[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight *= 0.1
            last.bias[3 * arch.block**2 :] = OPEN

    def forward(self, pixels: Tensor) -> Edited:
        """Edits pixels in [-1, 1], (batch, 3, height, width), of any size; see `Edited`."""
        height, width = pixels.shape[2:]
        right, below = -width % self.arch.multiple, -height % self.arch.multiple
        if right or below:  # to pad by nothing takes a fifth of the time
            pixels = F.pad(pixels, (0, right, 0, below), mode="replicate")
        hidden = self.stem(F.pixel_unshuffle(pixels, self.arch.block))
        kept = []
        for seen, smaller in zip(self.seen, self.smaller, strict=True):
            hidden = seen(hidden)
            kept.append(hidden)
            hidden = smaller(hidden)
        hidden = self.middle(hidden)
        features = hidden.mean(dim=(2, 3))
        for larger, drawn in zip(reversed(self.larger), reversed(self.drawn), strict=True):
            grown = F.interpolate(larger(hidden), scale_factor=2.0, mode="nearest")
            hidden = drawn(torch.cat([grown, kept.pop()], dim=1))
        output = F.pixel_shuffle(self.head(hidden), self.arch.block)
        colours, gate = output[:, :3].tanh(), output[:, 3:]
        edited = torch.lerp(colours, pixels, gate.sigmoid())
        return Edited(edited[..., :height, :width], gate[..., :height, :width], features)


def fresh(arch: Arch, seed: int) -> Student:
    """A student that has learnt nothing, its weights drawn by a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(arch)
