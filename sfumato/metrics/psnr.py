"""Peak signal-to-noise ratio: how well one image reproduces another, pixel by pixel."""

from __future__ import annotations

from math import inf, log10
from typing import Any

from sfumato.metrics.values import checked_range, paired_values


def mse(image: Any, reference: Any) -> float:
    r"""Gives the mean squared error, in the squared unit of the values.

    .. math:: \mathrm{MSE} = \frac{1}{n} \sum_i (a_i - b_i)^2

    Range [0, inf); 0 for equal inputs; lower is better. Computed in float64 whatever the inputs' type.

    Args:
        image: Tensor or array of any shape, or a PIL image, grey or RGB; all its values count as one image.
        reference: The same shape as `image`; the two may be swapped.

    Raises:
        ValueError: The shapes differ; or values that are none, not real numbers, NaN or infinite; or a PIL image of
            another mode.
    """
    first, second = paired_values(image, reference)
    return float((first - second).square().mean())


def psnr(image: Any, reference: Any, *, data_range: float) -> float:
    r"""Gives the peak signal-to-noise ratio in decibels.

    .. math:: \mathrm{PSNR} = 10 \log_{10} \frac{R^2}{\mathrm{MSE}}

    Higher is better; infinite for equal inputs; 0 when the root mean squared error is the whole range, and negative
    beyond. For 8-bit images about 30 is a visible and 40 hardly a visible difference. For a batch this is the value
    of the batch taken as one image, not the mean over its images.

    Args:
        image: Tensor or array of any shape, or a PIL image, grey or RGB.
        reference: The same shape as `image`; the two may be swapped.
        data_range: R, the width of the range that values can take: 2 for pixels in [-1, 1], 1 for [0, 1], 255 for
            bytes and PIL images. It is never guessed.

    Raises:
        ValueError: As `mse`; `data_range` is not positive and finite; or the values of one input are wider than it.
    """
    first, second = paired_values(image, reference, data_range=checked_range(data_range))
    error = float((first - second).square().mean())
    return inf if error == 0 else 20 * log10(data_range) - 10 * log10(error)
