"""How well the part of an image that should stay has stayed: MSE, PSNR, SSIM and a deep distance outside the mask.

Two definitions of each:

- `strict`: the mean over the background alone. What happened inside the mask does not count at all.
- `pie-2023`: both images blackened inside the mask, then the metric of the whole frame, as the tables on PIE-Bench
  are computed (Ju et al., 2023, https://arxiv.org/abs/2310.01506). The black pixels count as perfect ones, so a large
  mask flatters every method; only values under the same masks compare.

A mask that leaves no background gives NaN, to be left out of any mean: there is nothing to measure. Nothing else does:
NaN in an image or a mask is an error.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.metrics.distance import Distance, paired
from sfumato.metrics.ssim import RADIUS, ssim, ssim_map
from sfumato.metrics.values import checked_finite

Protocol = Literal["strict", "pie-2023"]


def background_mse(image: Tensor, reference: Tensor, mask: Tensor, *, protocol: Protocol = "strict") -> Tensor:
    """Mean squared error of values in [0, 1] outside the mask.

    Range [0, 1]; 0 for an untouched background; lower is better. In float64.

    Args:
        image, reference: Pixels in [-1, 1], (batch, 3, height, width); the batches broadcast.
        mask: 1 where the edit may change the image, else 0; (batch or 1, 1, height, width), or (height, width).
        protocol: See above.

    Returns:
        (batch,), NaN where there is no background.

    Raises:
        ValueError: Pixels of another shape or range (see `checked_pixels`), a mask that does not fit them or is not 0
            and 1, or an unknown protocol.
    """
    first, second, background = _checked(image, reference, mask, protocol)
    squares = ((first - second) * background).square().mean(dim=(1, 2, 3))
    share = background.mean(dim=(1, 2, 3))
    return _where_any(squares / share if protocol == "strict" else squares, background)


def background_psnr(image: Tensor, reference: Tensor, mask: Tensor, *, protocol: Protocol = "strict") -> Tensor:
    """Peak signal-to-noise ratio outside the mask, in decibels.

    Higher is better; infinite for an untouched background. Arguments, result and errors as for `background_mse`.
    """
    return -10 * background_mse(image, reference, mask, protocol=protocol).log10()


def background_ssim(image: Tensor, reference: Tensor, mask: Tensor, *, protocol: Protocol = "strict") -> Tensor:
    """Structural similarity outside the mask.

    Range [-1, 1]; 1 for an untouched background; higher is better. `strict` takes the mean over the windows that see no
    masked pixel, so it is NaN also where the background has no room for a window of 11 x 11. Arguments and errors as
    for `background_mse`.
    """
    first, second, background = (values.cpu() for values in _checked(image, reference, mask, protocol))
    if protocol == "pie-2023":
        return _where_any(ssim(first * background, second * background, data_range=1.0), background)
    windows = ssim_map(first, second, data_range=1.0).mean(dim=1, keepdim=True)  # (batch, 1, height - 10, width - 10)
    clear = -F.max_pool2d(-background, 2 * RADIUS + 1, stride=1)
    return (windows * clear).sum(dim=(1, 2, 3)) / clear.sum(dim=(1, 2, 3))  # 0 / 0 is NaN


def background_distance(
    image: Tensor, reference: Tensor, mask: Tensor, distance: Distance, *, protocol: Protocol = "strict"
) -> Tensor:
    """A deep distance outside the mask; LPIPS in the published tables (squeeze on PIE-Bench).

    0 for an untouched background; lower is better. `strict` puts the reference's pixels inside the mask, so that
    nothing there differs, and divides by the background's share of the frame: exact for a distance that is a mean over
    positions which see one pixel each, and near it for LPIPS, whose positions see a neighbourhood. Arguments and errors
    as for `background_mse`, and those of the distance.
    """
    first, second, background = _checked(image, reference, mask, protocol)
    if protocol == "pie-2023":
        blackened = (2 * values * background - 1 for values in (first, second))
        found = distance(*(values.float() for values in blackened))
        return _where_any(checked_finite(found.double(), "distances"), background)
    composite = first * background + second * (1 - background)
    found = distance((2 * composite - 1).float(), (2 * second - 1).float())
    return _where_any(checked_finite(found.double(), "distances") / background.mean(dim=(1, 2, 3)), background)


def _where_any(values: Tensor, background: Tensor) -> Tensor:
    return torch.where(background.any(dim=3).any(dim=2).any(dim=1), values, torch.nan)


def _checked(image: Tensor, reference: Tensor, mask: Tensor, protocol: str) -> tuple[Tensor, Tensor, Tensor]:
    """Both images in [0, 1] and the background (1 outside the mask), float64, of one batch."""
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {protocol!r}")
    first, second = paired(image, reference)
    mask = torch.as_tensor(mask)
    mask = mask[None, None] if mask.ndim == 2 else mask
    fits = mask.ndim == 4 and mask.shape[1:] == (1, *first.shape[2:]) and mask.shape[0] in (1, len(first))
    if not fits:
        raise ValueError(
            f"mask must be ({len(first)} or 1, 1, height, width) of the images' size {tuple(first.shape[2:])}, got "
            f"{tuple(mask.shape)}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must hold only 0 (background) and 1 (may change); threshold a soft mask first")
    background = (1 - mask.to(first.device, torch.float64)).expand(len(first), -1, -1, -1)
    return first.double() / 2 + 0.5, second.double() / 2 + 0.5, background
