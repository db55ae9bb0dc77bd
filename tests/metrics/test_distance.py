"""The protocol of a distance, and the distance of pixels."""

import pytest
import torch

from sfumato.metrics import Distance, PixelDistance


def test_pixel_distance_is_the_root_mean_square() -> None:
    first, second = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    second[0], second[1, 0] = 0.5, 1.0
    assert PixelDistance()(first, second).tolist() == pytest.approx([0.5, (1 / 3) ** 0.5])


def test_batches_broadcast_and_equal_pictures_are_at_zero() -> None:
    pixels = torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = PixelDistance()(pixels, pixels[1:2])
    assert found.shape == (3,)
    assert found[1] == 0 < min(found[0], found[2])
    assert torch.equal(found, PixelDistance()(pixels[1:2], pixels))


def test_gradient_is_finite_at_equal_pictures() -> None:
    pixels = torch.zeros(1, 3, 4, 4, requires_grad=True)
    PixelDistance()(pixels, pixels.detach()).sum().backward()
    assert pixels.grad is not None
    assert not pixels.grad.any()


def test_it_is_a_distance() -> None:
    assert isinstance(PixelDistance(), Distance)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((1, 1, 4, 4), (1, 3, 4, 4), "batch, 3, height, width"),
        ((3, 4, 4), (1, 3, 4, 4), "batch, 3, height, width"),
        ((1, 3, 4, 4), (1, 3, 4, 5), r"one size, got \(4, 4\) and \(4, 5\)"),
        ((2, 3, 4, 4), (3, 3, 4, 4), "equal or one of them 1, got 2 and 3"),
    ],
)
def test_shapes_that_do_not_fit_are_named(first: tuple[int, ...], second: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelDistance()(torch.zeros(first), torch.zeros(second))
