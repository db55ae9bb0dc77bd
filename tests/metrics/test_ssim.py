"""SSIM against its definition written out window by window, its closed forms, and loud failures."""

from math import exp

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from sfumato.metrics import ssim


def pictures(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(shape, generator=generator)
    return first, (first + 0.2 * torch.randn(shape, generator=generator)).clamp(0, 1)


def by_definition(first: np.ndarray, second: np.ndarray, data_range: float) -> float:
    """Wang et al., Eq. 13, one window after another."""
    line = np.array([exp(-0.5 * (k / 1.5) ** 2) for k in range(-5, 6)])
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for top in range(first.shape[0] - 10):
        for left in range(first.shape[1] - 10):
            a, b = (picture[top : top + 11, left : left + 11] for picture in (first, second))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            spread_a, spread_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            together = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            found.append(luminance * (2 * together + c2) / (spread_a + spread_b + c2))
    return float(np.mean(found))


def test_follows_the_definition() -> None:
    first, second = pictures(2, 3, 16, 19)
    result = ssim(first, second, data_range=1.0)
    assert result.shape == (2,)
    for one, other, value in zip(first.double().numpy(), second.double().numpy(), result, strict=True):
        channels = [by_definition(a, b, 1.0) for a, b in zip(one, other, strict=True)]
        assert float(value) == pytest.approx(np.mean(channels), abs=1e-12)


def test_agrees_with_scikit_image() -> None:
    first, second = (picture.double().numpy() for picture in pictures(3, 24, 21))
    theirs = structural_similarity(
        first, second, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(ssim(first, second, data_range=1.0)) == pytest.approx(theirs, abs=1e-9)


def test_equal_pictures_give_one_and_either_order_the_same() -> None:
    first, second = pictures(1, 12, 12)
    assert float(ssim(first, first, data_range=1.0)) == pytest.approx(1.0)
    assert float(ssim(first, second, data_range=1.0)) == float(ssim(second, first, data_range=1.0)) < 1.0


def test_flat_pictures_differ_by_luminance_alone() -> None:
    first, second = torch.full((1, 11, 11), 0.2), torch.full((1, 11, 11), 0.8)
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    assert float(ssim(first, second, data_range=1.0)) == pytest.approx(expected, abs=1e-6)


def test_only_the_ratio_to_the_range_counts() -> None:
    first, second = pictures(3, 12, 12)
    scaled = ssim(255 * first.double(), 255 * second.double(), data_range=255)
    assert float(scaled) == pytest.approx(float(ssim(first, second, data_range=1.0)), abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "data_range", "message"),
    [
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 17), 1.0, "one shape"),
        (torch.zeros(3, 10, 16), torch.zeros(3, 10, 16), 1.0, "11 pixels a side at least"),
        (torch.zeros(16, 16), torch.zeros(16, 16), 1.0, "channels, height, width"),
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), 0.0, "data_range must be positive"),
        (torch.full((3, 16, 16), float("nan")), torch.zeros(3, 16, 16), 1.0, "NaN"),
        (torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16), 1.0, "no values"),
    ],
)
def test_mistakes_are_named(first: torch.Tensor, second: torch.Tensor, data_range: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim(first, second, data_range=data_range)
