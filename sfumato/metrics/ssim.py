"""Structural similarity: how well the local pattern of one image reproduces another's."""

from __future__ import annotations

from math import exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.metrics.values import checked_range, paired_values

SIGMA = 1.5
RADIUS = 5


def ssim(image: Any, reference: Any, *, data_range: float) -> Tensor:
    r"""Gives the mean structural similarity of each image.

    .. math:: \mathrm{SSIM} = \mathrm{mean}\;\frac{(2\mu_a\mu_b + C_1)(2\sigma_{ab} + C_2)}
              {(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}, \qquad C_1 = (0.01 R)^2,\ C_2 = (0.03 R)^2

    Moments are those of a population under a Gaussian window of standard deviation 1.5 cut at 11 x 11, taken where the
    window lies inside the image; the mean is over positions and channels. Range [-1, 1]; 1 for equal inputs; higher
    is better. Computed in float64.

    Reference: Wang et al., 2004, "Image quality assessment: from error visibility to structural similarity", Eq. 13 and
    section III-C; scikit-image's `structural_similarity` with `gaussian_weights=True, use_sample_covariance=False`.

    Args:
        image: (..., channels, height, width), tensor or array, each side at least 11 pixels; colour channels are
            compared each by itself.
        reference: The same shape; the two may be swapped.
        data_range: R, the width of the range that values can take: 2 for pixels in [-1, 1], 1 for [0, 1], 255 for
            bytes. It is never guessed.

    Returns:
        One value an image, (...,), float64; a scalar tensor for a single image.

    Raises:
        ValueError: The shapes differ or are too small; a value is NaN, infinite or no real number; `data_range` is not
            positive, or the values of one input are wider than it.
    """
    return ssim_map(image, reference, data_range=data_range).mean(dim=(-3, -2, -1))


def ssim_map(image: Any, reference: Any, *, data_range: float) -> Tensor:
    """Gives the structural similarity at every position whose window lies inside the image, see `ssim`.

    Returns:
        (..., channels, height - 10, width - 10), float64.

    Raises:
        ValueError: As `ssim`.
    """
    first, second = paired_values(image, reference, data_range=checked_range(data_range))
    size = 2 * RADIUS + 1
    if first.ndim < 3 or min(first.shape[-2:]) < size:
        raise ValueError(
            f"images must be (..., channels, height, width), {size} pixels a side at least, got {tuple(first.shape)}"
        )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = _windowed(first), _windowed(second)
    variance_a, variance_b = _windowed(first**2) - mean_a**2, _windowed(second**2) - mean_b**2
    covariance = _windowed(first * second) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return luminance * structure


def _windowed(values: Tensor) -> Tensor:
    """Gaussian mean around every position whose window lies inside, (..., channels, height - 10, width - 10)."""
    line = [exp(-0.5 * (offset / SIGMA) ** 2) for offset in range(-RADIUS, RADIUS + 1)]
    weights = torch.tensor(line, dtype=torch.float64)
    weights = weights / weights.sum()
    planes = values.reshape(-1, 1, *values.shape[-2:])
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes.reshape(*values.shape[:-2], *planes.shape[-2:])
