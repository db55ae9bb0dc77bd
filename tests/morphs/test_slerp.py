"""Spherical interpolation against its definition."""

import math

import pytest
import torch

from sfumato.morphs.slerp import slerp


def test_ends_are_exact_and_keep_their_lengths() -> None:
    first, second = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(first, 3.0 * second, 0.0), first)
    torch.testing.assert_close(slerp(first, 3.0 * second, 1.0), 3.0 * second)


def test_walks_the_circle_at_constant_speed() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for weight in (0.1, 0.5, 0.8):
        angle = weight * math.pi / 2
        torch.testing.assert_close(slerp(first, second, weight), torch.tensor([math.cos(angle), math.sin(angle)]))


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0, 0.0], [2.0, 0.0]), ([1.0, 0.0], [-1.0, 0.0]), ([0.0, 0.0], [1.0, 0.0])],
    ids=["parallel", "opposite", "zero"],
)
def test_walks_the_line_where_there_is_no_angle(first: list[float], second: list[float]) -> None:
    start, end = torch.tensor(first), torch.tensor(second)
    torch.testing.assert_close(slerp(start, end, 0.25), torch.lerp(start, end, 0.25))


def test_axes_say_what_one_vector_is() -> None:
    first, second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    rows = torch.stack([slerp(a, b, 0.3) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(slerp(first, second, 0.3, dims=(-1,)), rows)
    assert not torch.allclose(slerp(first, second, 0.3), rows)


def test_weights_may_be_a_tensor() -> None:
    first, second = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([[0.0], [0.4], [1.0]])
    together = slerp(first.expand(3, -1), second.expand(3, -1), weights, dims=(-1,))
    torch.testing.assert_close(together, torch.cat([slerp(first, second, w) for w in (0.0, 0.4, 1.0)]))
