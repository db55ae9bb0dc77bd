"""Peak signal-to-noise ratio: how well one picture reproduces another, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np


def mse(image: Any, reference: Any) -> float:
    r"""Gives the mean squared error, in the squared unit of the values.

    .. math:: \mathrm{MSE} = \frac{1}{n} \sum_i (a_i - b_i)^2

    Range [0, inf); 0 for equal inputs; lower is better. Computed in float64 whatever the inputs' type.

    Args:
        image: Tensor or array of any shape (or a PIL picture); all its values count as one picture.
        reference: The same shape as `image`; the two may be swapped.

    Raises:
        ValueError: The shapes differ, there are no values, or a value is NaN or infinite.
    """
    first, second = _values(image, "image"), _values(reference, "reference")
    if first.shape != second.shape:
        raise ValueError(f"image and reference must have one shape, got {first.shape} and {second.shape}")
    return float(np.square(first - second).mean())


def psnr(image: Any, reference: Any, *, data_range: float) -> float:
    r"""Gives the peak signal-to-noise ratio in decibels.

    .. math:: \mathrm{PSNR} = 10 \log_{10} \frac{R^2}{\mathrm{MSE}}

    Higher is better; infinite for equal inputs; 0 when the root mean squared error is the whole range, and negative
    beyond. For 8-bit pictures about 30 is a visible and 40 hardly a visible difference. For a batch this is the value
    of the batch taken as one picture, not the mean over its pictures.

    Args:
        image: Tensor or array of any shape (or a PIL picture).
        reference: The same shape as `image`; the two may be swapped.
        data_range: R, the width of the range that values can take: 2 for pixels in [-1, 1], 1 for [0, 1], 255 for
            uint8. It is never guessed.

    Raises:
        ValueError: As `mse`; or `data_range` is not positive and finite.
    """
    if not (np.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be positive and finite, got {data_range}")
    error = mse(image, reference)
    return float("inf") if error == 0 else float(20 * np.log10(data_range) - 10 * np.log10(error))


def _values(values: Any, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if hasattr(values, "detach"):  # a tensor; bfloat16 has no numpy counterpart, hence the way over double
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} holds no values")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    return array
