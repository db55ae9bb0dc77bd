"""What a teacher leaves alone is put back into its pairs, and what it changed stays its own."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.distillation.pairs import Pairs, as_bytes, as_pixels
from sfumato.distillation.settling import settled
from sfumato.errors import Cancelled
from sfumato.watch import Watch
from tests.distillation.toy_pairs import squares

SIDE = 44
"""No multiple of the model's."""


class Blurring:
    """A model whose autoencoder blurs and darkens a little."""

    device, size_multiple = torch.device("cpu"), 8

    def encode_image(self, pixels: Tensor) -> Tensor:
        assert all(side % self.size_multiple == 0 for side in pixels.shape[2:])
        return F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents - 0.05


def taught(exact: Pairs) -> Pairs:
    """The exact answers as the model's results show them."""
    blurring = Blurring()
    results = blurring.decode_latents(F.avg_pool2d(as_pixels(exact.targets), 3, 1, 1, count_include_pad=False))
    return Pairs(exact.names, exact.sources, as_bytes(results.clamp(-1, 1)))


def test_what_the_teacher_leaves_alone_is_the_sources() -> None:
    exact = squares(9, side=SIDE)
    pairs = taught(exact)
    found = settled(pairs, cast(Any, Blurring()), 0.25, Watch())
    assert torch.equal(found.sources, pairs.sources)
    assert found.names == pairs.names
    changed = (exact.sources != exact.targets).any(dim=1, keepdim=True).float()
    far, inside = F.max_pool2d(changed, 17, stride=1, padding=8) == 0, -F.max_pool2d(-changed, 5, 1, 2) == 1
    assert far.float().mean() > 0.2
    assert (pairs.targets != pairs.sources)[far.expand_as(pairs.sources)].any()  # not by itself
    assert torch.equal(found.targets[far.expand_as(pairs.sources)], pairs.sources[far.expand_as(pairs.sources)])
    assert torch.equal(found.targets[inside.expand_as(pairs.sources)], pairs.targets[inside.expand_as(pairs.sources)])


def test_an_edit_that_changed_nothing_gives_the_sources() -> None:
    exact = squares(3, side=SIDE)
    pairs = taught(Pairs(exact.names, exact.sources, exact.sources))
    assert not torch.equal(pairs.targets, pairs.sources)
    assert torch.equal(settled(pairs, cast(Any, Blurring()), 0.25, Watch()).targets, pairs.sources)


def test_pairs_may_stay_as_they_are_and_work_can_be_stopped() -> None:
    pairs = taught(squares(3, side=SIDE))
    assert settled(pairs, cast(Any, Blurring()), 0.0, Watch()) is pairs
    with pytest.raises(Cancelled):
        settled(pairs, cast(Any, Blurring()), 0.25, Watch(cancelled=lambda: True))
