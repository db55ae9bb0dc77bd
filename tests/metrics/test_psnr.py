"""PSNR against closed forms and against scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from sfumato.metrics import mse, psnr


def test_mse_is_the_mean_of_squares() -> None:
    assert mse(np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 1.0])) == pytest.approx(5 / 3, rel=1e-15)


@pytest.mark.parametrize(("offset", "expected"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (10.0, -20.0)])
def test_constant_offset_has_a_closed_form(offset: float, expected: float) -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert psnr(image + offset, image, data_range=1.0) == pytest.approx(expected, abs=1e-10)


def test_agrees_with_scikit_image_on_bytes() -> None:
    rng = np.random.default_rng(0)
    image, reference = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected = peak_signal_noise_ratio(reference, image, data_range=255)
    assert psnr(image, reference, data_range=255) == pytest.approx(expected, rel=1e-12)


def test_range_and_values_scale_together() -> None:
    rng = np.random.default_rng(0)
    image, reference = rng.uniform(-1, 1, (2, 3, 8, 8))
    halved = psnr((image + 1) / 2, (reference + 1) / 2, data_range=1.0)
    assert psnr(image, reference, data_range=2.0) == pytest.approx(halved, rel=1e-12)
    assert psnr(reference, image, data_range=2.0) == psnr(image, reference, data_range=2.0)


def test_equal_inputs_are_infinitely_good() -> None:
    assert psnr(torch.ones(3), torch.ones(3), data_range=2.0) == math.inf


def test_half_precision_and_gradients_are_taken() -> None:
    image = torch.full((4,), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert psnr(image, torch.zeros(4), data_range=1.0) == pytest.approx(20 * math.log10(2), rel=1e-12)


@pytest.mark.parametrize(
    ("image", "reference", "message"),
    [
        (np.zeros((1, 3)), np.zeros(3), r"one shape.*\(1, 3\).*\(3,\)"),
        (np.zeros(0), np.zeros(0), "no values"),
        (np.array([math.nan]), np.zeros(1), "image holds NaN"),
        (np.zeros(1), np.array([math.inf]), "reference holds NaN or infinite"),
    ],
)
def test_what_cannot_be_compared_is_refused(image: np.ndarray, reference: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        psnr(image, reference, data_range=1.0)


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, math.inf])
def test_range_must_be_positive(data_range: float) -> None:
    with pytest.raises(ValueError, match="data_range must be positive"):
        psnr(np.zeros(1), np.ones(1), data_range=data_range)
