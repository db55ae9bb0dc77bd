"""Frames are drawn once, in batches, and only where the path can draw them."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sfumato.errors import Cancelled, UsageError
from sfumato.morphs.path import Frames, MorphPath
from sfumato.watch import Watch


def path(calls: list[list[float]], weights: tuple[float, ...] | None = None) -> MorphPath:
    def draw(asked: Sequence[float]) -> Tensor:
        calls.append(list(asked))
        return torch.tensor(asked, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    return MorphPath(draw, weights=weights)


def test_draws_each_frame_once_in_batches() -> None:
    calls: list[list[float]] = []
    frames = Frames(path(calls), lambda latents: latents / 2, batch=2)
    shown = frames.at([0.0, 0.5, 1.0, 0.5])
    assert shown[:, 0, 0, 0].tolist() == [0.0, 0.25, 0.5, 0.25]
    assert frames(0.5).shape == (1, 3, 2, 2)
    assert calls == [[0.0, 0.5], [1.0]]
    assert frames.drawn == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_refuses_weights_outside(weight: float) -> None:
    with pytest.raises(UsageError, match=r"must be in \[0, 1\]"):
        Frames(path([]), lambda latents: latents)(weight)


def test_refuses_weights_that_the_path_cannot_draw() -> None:
    frames = Frames(path([], weights=(0.0, 0.5, 1.0)), lambda latents: latents)
    assert frames(0.5).shape == (1, 3, 2, 2)
    with pytest.raises(UsageError, match=r"3 weights only, none at 0\.3"):
        frames(0.3)


def test_stops_when_asked() -> None:
    frames = Frames(path([]), lambda latents: latents, watch=Watch(cancelled=lambda: True))
    with pytest.raises(Cancelled):
        frames(0.5)
