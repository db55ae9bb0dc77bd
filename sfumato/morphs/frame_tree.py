"""The tree of Interpolating between images (Wang and Golland, 2023), https://arxiv.org/abs/2307.12560.

The middle frame first, at the noisiest level; then frames between neighbours, level by level, all denoised together.
`interpolating_images.py` says how it differs from the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Level
from sfumato.morphs.denoiser import Denoiser
from sfumato.morphs.slerp import slerp
from sfumato.watch import Watch


def level_indices(steps: int, levels: int, low: float, high: float, kind: str = "linear") -> list[int]:
    """Positions on the grid, cleanest first, of the noise levels: 0 for the clean image, then one a level.

    Raises:
        UsageError: Two levels fall on one step.
    """
    power = {"linear": 1.0, "convex": 2.0, "concave": 0.5}[kind]
    shares = [low + (high - low) * (k / max(levels - 1, 1)) ** power for k in range(levels)] if levels > 1 else [high]
    indices = [0, *(min(round(share * steps), steps - 1) for share in shares)]
    if sorted(set(indices)) != indices:
        raise UsageError(
            f"{levels} levels between strengths {low:g} and {high:g} of {steps} steps fall on one another ({indices}):"
            " use more steps, fewer levels, or move the strengths apart"
        )
    return indices


def tree(
    denoise: Denoiser,
    latents: Tensor,
    noise: Tensor,
    levels: Sequence[int],
    *,
    retroactive: bool = True,
    released: bool = False,
    watch: Watch | None = None,
) -> Tensor:
    """Grows all frames between two images.

    Args:
        denoise: Steps of the model.
        latents: Clean latents of both images, (2, channels, height, width).
        noise: A draw a level, (level, channels, height, width) for both images alike, or (level, 2, ...).
        levels: Positions on the grid, cleanest first, see `level_indices`.
        retroactive: Make older frames anew, at the second and third level.
        released: Start and end every level one step lower.
        watch: Progress and cancellation.

    Returns:
        Clean latents, the images' own at both ends, (frames, channels, height, width).
    """
    latents = latents.to(denoise.model.device)
    stacks = noise_stacks(latents, noise, [denoise.steps[k].level for k in levels[1:]])
    count = 2 ** (len(levels) - 1)
    ladder = [range(high - released, low - released, -1) for low, high in pairwise(levels)]
    ladder[0] = range(levels[1] - released, -1, -1)  # the lowest level ends at the clean latents
    turns = iter((watch or Watch()).during("growing frames").over([k for walk in ladder[::-1] for k in walk]))

    frames: dict[int, Tensor] = {}
    for level, walk in reversed(list(enumerate(ladder))):
        frames[0], frames[count] = stacks[level + 1]
        apart, depth = 2**level, len(ladder) - level
        for k in range(apart, count, 2 * apart):
            frames[k] = slerp(frames[k - apart], frames[k + apart], 0.5)
        for k, near in _made_anew(count, depth) if retroactive else ():
            frames[k] = slerp(frames[k - near], frames[k + near], 0.5)
        inner = list(range(apart, count, apart))
        condition = denoise.condition([k / count for k in inner])
        batch = torch.stack([frames[k] for k in inner])
        for _ in walk:
            batch = denoise(batch, next(turns), condition)
        frames.update(zip(inner, batch, strict=True))
    next(turns, None)  # reports the last step
    frames[0], frames[count] = latents
    return torch.stack([frames[k] for k in range(count + 1)])


def noise_stacks(latents: Tensor, noise: Tensor, levels: Sequence[Level]) -> Tensor:
    r"""Clean latents, noised level upon level, (1 + level, image, channels, height, width).

    .. math:: x_k = \frac{s_k}{s_{k-1}} x_{k-1} + \sqrt{n_k^2 - (n_{k-1} s_k / s_{k-1})^2}\,\epsilon_k

    Args:
        latents: (image, channels, height, width).
        noise: (level, channels, height, width), or with an axis of images after the first.
        levels: (s, n), from the least noisy on.
    """
    stack, before = [latents], Level(1.0, 0.0)
    for draw, level in zip(noise.to(latents), levels, strict=True):
        kept = level.signal / before.signal
        stack.append(kept * stack[-1] + sqrt(level.noise**2 - (before.noise * kept) ** 2) * draw)
        before = level
    return torch.stack(stack)


def _made_anew(count: int, depth: int) -> list[tuple[int, int]]:
    """Older frames that a level makes anew, and how far away their neighbours are: at the second and third level."""
    if depth == 2:
        return [(count // 2, count // 4)]
    if depth == 3:
        return [(k * count // 4, count // 8) for k in (1, 2, 3)]
    return []
