"""Regularisers that move a predicted noise towards white Gaussian noise.

Source: Parmar et al., 2023, https://arxiv.org/abs/2302.03027, section 3.2. All channels are done at once; the network
is not differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 8
"""Side of the coarsest noise map of the pyramid."""


def regularised(
    noise_pred: Tensor, rolls: Tensor, correlation_weight: float = 20.0, gaussian_weight: float = 20.0
) -> Tensor:
    """Moves a noise prediction towards white Gaussian noise, shaped like it.

    Each round takes R gradient steps of size weight / R down the auto-correlation, each at its own offsets, then one
    of size weight down the divergence from a Gaussian. Gradients are with respect to the prediction alone.

    Args:
        noise_pred: (image, channels, height, width).
        rolls: Offsets, (round, roll, channel, level), or with a last axis (height, width).
        correlation_weight, gaussian_weight: lambda_ac and lambda_kl; 0 leaves that part out.
    """
    noise_pred = noise_pred.detach()
    for offsets in rolls:
        if correlation_weight > 0.0:
            for offset in offsets:
                correlation = partial(auto_correlation, rolls=offset)
                noise_pred = noise_pred - correlation_weight / len(offsets) * _gradient(correlation, noise_pred)
        if gaussian_weight > 0.0:
            noise_pred = noise_pred - gaussian_weight * _gradient(gaussian_divergence, noise_pred)
    return noise_pred


def auto_correlation(noise: Tensor, rolls: Tensor) -> Tensor:
    r"""How much a noise map agrees with itself moved by an offset, (image, channels, levels); their sum is the loss.

    .. math:: \Big(\frac1{HW}\sum n \cdot \mathrm{roll}_H(n, r)\Big)^2 + \Big(\frac1{HW}\sum n \cdot
              \mathrm{roll}_W(n, r)\Big)^2

    Args:
        noise: (image, channels, height, width).
        rolls: Offsets, (channel, level), the same for both axes, or (channel, level, 2) for height and width; level 0
            is the noise itself, each further one its average over 2 x 2.
    """
    both = rolls[..., None].expand(*rolls.shape, 2) if rolls.ndim == 2 else rolls
    levels = []
    for level in range(both.shape[1]):
        if level > 0:
            noise = F.avg_pool2d(noise, 2)
        along = [(noise * _rolled(noise, both[:, level, axis], axis)).mean(dim=(-2, -1)) for axis in (0, 1)]
        levels.append(along[0].square() + along[1].square())
    return torch.stack(levels, dim=-1)


def gaussian_divergence(noise: Tensor) -> Tensor:
    """sigma^2 + mu^2 - 1 - log(sigma^2 + 1e-7) over all elements of each map, (image,): twice KL to N(0, 1)."""
    flat = noise.flatten(1)
    variance, mean = flat.var(dim=1), flat.mean(dim=1)
    return variance + mean.square() - 1.0 - (variance + 1e-7).log()


def pyramid_levels(height: int, width: int) -> int:
    """Noise maps of the pyramid: the shorter side is halved as long as 8 remain, at least one map."""
    levels, side = 1, min(height, width)
    while side // 2 >= SMALLEST:
        levels, side = levels + 1, side // 2
    return levels


def draw_rolls(latent_shape: Sequence[int], shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Draws offsets, (*shape, channel, level, 2), each from 1 ... side / 2 - 1 of its own map and axis.

    Args:
        latent_shape: (channels, height, width).
        shape: Of the draws, (step, round, roll).
        generator: On the CPU; level by level, for each the height's offsets before the width's.
    """
    channels, height, width = latent_shape
    levels = []
    for level in range(pyramid_levels(height, width)):
        sides = [side >> level for side in (height, width)]
        draws = [torch.randint(1, max(side // 2, 2), (*shape, channels), generator=generator) for side in sides]
        levels.append(torch.stack(draws, dim=-1))
    return torch.stack(levels, dim=-2)


def _rolled(noise: Tensor, offsets: Tensor, axis: int) -> Tensor:
    """Each channel rolled by its own offset, towards larger indices; axis 0 is the height, 1 the width."""
    side = noise.shape[2 + axis]
    index = (torch.arange(side, device=noise.device) - offsets[:, None]) % side  # (channel, side)
    index = index[:, :, None] if axis == 0 else index[:, None, :]
    return noise.gather(2 + axis, index.expand_as(noise))


def _gradient(loss: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = noise.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return gradient
