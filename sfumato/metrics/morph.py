"""Measures of a morph: how evenly it moves, how directly, and whether it starts and ends where it should.

Names such as "PPL" mean something else in every paper. Each function here says whose it is, and a report should give
the function's name, the number of frames and the distance's name beside the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.metrics.distance import Distance
from sfumato.metrics.values import checked_pixels


@dataclass(frozen=True)
class Smoothness:
    """How unequal the steps of a morph are; see `smoothness`.

    Attributes:
        std_over_mean: Population standard deviation over mean; 0 for equal steps; lower is better.
        max_over_mean: Longest step over mean; 1 for equal steps, their number for a single jump; lower is better.
        evenness: 1 - Gini coefficient, in (0, 1]; 1 for equal steps; higher is better.
    """

    std_over_mean: float
    max_over_mean: float
    evenness: float


class Directness(NamedTuple):
    """How far a morph goes round; see `directness`.

    Attributes:
        path_length: Sum of the steps; lower is more direct.
        detour: Path length over the distance of the ends; NaN where the ends are equal. 1 is the straight way for a
            distance that obeys the triangle inequality; LPIPS and the like do not, and may go below.
    """

    path_length: float
    detour: float


class EndpointFidelity(NamedTuple):
    """Distance of the first frame to the first image, of the last to the second; 0 is best."""

    first: float
    last: float


class PathLength(NamedTuple):
    """What `perceptual_path_length` found: mean and (population) standard deviation of the values kept, and these."""

    mean: float
    std: float
    kept: Tensor


class PathMeasures(NamedTuple):
    """DiffMorpher's two, lower is better: `ppl` is the sum of the steps, `pdv` their variance (of the population)."""

    ppl: float
    pdv: float


@torch.no_grad()
def consecutive_distances(frames: Tensor, distance: Distance, *, batch_size: int = 16) -> Tensor:
    """Gives the distance of each frame to the next.

    Args:
        frames: Pixels in [-1, 1], (frames, 3, height, width), two at least.
        distance: See `Distance`.
        batch_size: Pairs that the distance is given at once.

    Returns:
        (frames - 1,), float64, on the CPU.

    Raises:
        ValueError: Fewer than two frames, pixels of another shape or range, or a distance that is negative or not
            finite.
    """
    if len(checked_pixels(frames, "frames")) < 2:
        raise ValueError(f"a morph has two frames at least, got {len(frames)}")
    pairs = zip(frames[:-1].split(batch_size), frames[1:].split(batch_size), strict=True)
    return _steps(torch.cat([distance(one, other).cpu() for one, other in pairs]))


def smoothness(distances: Tensor | Sequence[float]) -> Smoothness:
    r"""Measures how unequal the steps of a morph are.

    .. math:: \mathrm{Gini} = \frac{\sum_{ij} |d_i - d_j|}{2 n^2 \bar d}

    A morph of equal frames throughout has no steps to compare and gives NaN.

    Reference: He et al., 2024 (attention interpolation), https://arxiv.org/abs/2403.17924, whose smoothness is
    `evenness`; their consistency is the mean distance.

    Args:
        distances: Of neighbouring frames, from `consecutive_distances`.

    Raises:
        ValueError: There are none, or one is negative or not finite.
    """
    steps = _steps(distances)
    mean = steps.mean()
    gini = (steps[:, None] - steps[None]).abs().mean() / (2 * mean)
    return Smoothness(float(steps.std(correction=0) / mean), float(steps.max() / mean), float(1 - gini))


def directness(distances: Tensor | Sequence[float], end_to_end: float) -> Directness:
    """Measures how far a morph goes round.

    Args:
        distances: Of neighbouring frames.
        end_to_end: Of the first and the last frame, by the same distance.

    Raises:
        ValueError: There are no distances, or one is negative or not finite.
    """
    total = float(_steps(distances).sum())
    ends = float(_steps([end_to_end]))
    return Directness(total, total / ends if ends else float("nan"))


@torch.no_grad()
def endpoint_fidelity(frames: Tensor, first: Tensor, last: Tensor, distance: Distance) -> EndpointFidelity:
    """Measures whether a morph starts and ends with the images that it was asked to join.

    Args:
        frames: Pixels in [-1, 1], (frames, 3, height, width).
        first, last: The two images, (1, 3, height, width).
        distance: See `Distance`.

    Raises:
        ValueError: There are no frames, or a distance is negative or not finite.
    """
    if not len(frames):
        raise ValueError("a morph has two frames at least, got none")
    ends = _steps([float(distance(frames[:1], first)), float(distance(frames[-1:], last))])
    return EndpointFidelity(float(ends[0]), float(ends[1]))


@torch.no_grad()
def perceptual_path_length(
    morph: Callable[[float], Tensor],
    distance: Distance,
    alphas: Tensor | Sequence[float],
    *,
    epsilon: float = 1e-4,
    discard: tuple[float, float] = (1, 99),
) -> PathLength:
    r"""Perceptual path length by finite differences, as IMPUS measures smoothness.

    .. math:: d(F(\alpha), F(\alpha + \epsilon)) / \epsilon^2

    for each alpha given, then without the values below the lower and above the upper percentile (order statistics, not
    interpolated; values equal to them are kept). Lower is smoother. The morph should be drawn in float64 where it can
    be: at 1e-4 apart, 32 bits leave the quotient few digits.

    References: Karras et al., 2019 (StyleGAN), https://arxiv.org/abs/1812.04948, section 4.1; Yang et al., 2024
    (IMPUS), https://arxiv.org/abs/2311.06792, with 50 alphas drawn evenly from [0, 1) and LPIPS (alex). With 50 the
    percentiles drop nothing.

    Args:
        morph: Gives the frame at a morph weight, pixels (1, 3, height, width).
        distance: See `Distance`.
        alphas: Where to measure, (count,), in [0, 1].
        epsilon: Difference of the two weights.
        discard: Lower and upper percentile.

    Raises:
        ValueError: No alphas; alphas, an epsilon or percentiles out of range; or a distance that is negative or not
            finite.
    """
    low, high = discard
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if not 0 <= low <= high <= 100:
        raise ValueError(f"discard must be two percentiles in order, each in [0, 100], got {discard}")
    weights = torch.as_tensor(alphas, dtype=torch.float64).tolist()
    if not all(0 <= weight <= 1 for weight in weights):
        raise ValueError(f"alphas must lie in [0, 1], got {weights}")
    found = [distance(morph(weight), morph(weight + epsilon)).double().cpu() for weight in weights]
    values = _steps(torch.cat([value.reshape(1) for value in found]) if found else []) / epsilon**2
    lower = float(np.percentile(values.numpy(), low, method="lower"))
    upper = float(np.percentile(values.numpy(), high, method="higher"))
    kept = values[(values >= lower) & (values <= upper)]
    return PathLength(float(kept.mean()), float(kept.std(correction=0)), kept)


def diffmorpher_measures(distances: Tensor | Sequence[float], *, num_frames: int = 17) -> PathMeasures:
    """Gives DiffMorpher's PPL, the sum of the distances of neighbouring frames, and PDV, their variance.

    Both depend on the number of frames, so values compare only at the paper's 17.

    Reference: Zhang et al., 2024, https://arxiv.org/abs/2312.07409, section 4.1, with LPIPS. Others that quote the
    names give the standard deviation for PDV, or other numbers of frames.

    Args:
        distances: Of neighbouring frames, `num_frames - 1` of them.
        num_frames: Another number of frames, where it is meant.

    Raises:
        ValueError: Another number of distances, or one that is negative or not finite.
    """
    steps = _steps(distances)
    if len(steps) != num_frames - 1:
        raise ValueError(f"{num_frames} frames have {num_frames - 1} steps, got {len(steps)}: draw {num_frames} frames")
    return PathMeasures(float(steps.sum()), float(steps.var(correction=0)))


def relative_perceptual_path_diversity(
    distances: Tensor | Sequence[float], direct_distance: float, *, released: bool = True
) -> float:
    """Gives rPPD: how much longer the way from image to image is than the jump, per step.

    IMPUS samples a path on the base model at b = 0.1, 0.2, ..., 1.0, from next to image 2 to image 1, and chooses the
    rank of its adapter by it (`lora_rank`).

    Reference: Yang et al., 2024, https://arxiv.org/abs/2311.06792. The authors' code starts the sum at image 1 though
    the path starts next to image 2: its first term is a jump over nearly the whole path, which adds about 1/9.

    Args:
        distances: Of the reconstruction of image 1 to the first frame of the path, then of the path's neighbours: ten
            for the ten frames of the paper.
        direct_distance: Of the two reconstructions, above 0.
        released: Counts the first distance too, as the authors' code does, and as the constants of `lora_rank` were
            chosen with. False leaves it out.

    Raises:
        ValueError: Fewer than two distances, one that is negative or not finite, or equal reconstructions.
    """
    steps = _steps(distances)
    direct = float(_steps([direct_distance]))
    if len(steps) < 2:
        raise ValueError(f"rPPD needs the distance to the path and one along it at least, got {len(steps)} distances")
    if direct == 0:
        raise ValueError("direct_distance is 0: the two images are equal, so no path joins them")
    total = steps.sum() if released else steps[1:].sum()
    return float(total) / ((len(steps) - 1) * direct)


def lora_rank(rppd: float, variances: tuple[float, float]) -> int:
    r"""Gives the rank that IMPUS fits its adapter with: :math:`2^{\max(0, \lfloor 18\,\mathrm{rPPD} - 6 \rfloor)}`.

    At least 16 where the variances of the two inverted noises differ by more than 0.1 and one is below 0.9: the
    inversion of such an image is an outlier.

    Reference: Yang et al., 2024, https://arxiv.org/abs/2311.06792, and the authors' code.

    Args:
        rppd: From `relative_perceptual_path_diversity`, with the released rule that the constants belong to.
        variances: Of the noise of each image.

    Returns:
        A power of two; a layer narrower than it needs a smaller one.

    Raises:
        ValueError: A value is negative or not finite, or the rank would pass 2^30.
    """
    if not (np.isfinite(rppd) and rppd >= 0) or 18 * rppd - 6 >= 31:
        raise ValueError(f"rppd must be in [0, 2), got {rppd}")
    first, second = _steps(list(variances)).tolist()
    rank = 1 << max(0, int(18 * rppd - 6))
    outlier = abs(first - second) > 0.1 and min(first, second) < 0.9
    return max(16, rank) if outlier else rank


def _steps(distances: Tensor | Sequence[float]) -> Tensor:
    steps = torch.as_tensor(distances, dtype=torch.float64).detach().cpu()
    if steps.ndim != 1 or not len(steps):
        raise ValueError(f"distances must be a list of one at least, got {tuple(steps.shape)}")
    if not bool(torch.isfinite(steps).all()) or bool((steps < 0).any()):
        raise ValueError(f"distances must be finite and not negative, got {steps.tolist()}")
    return steps
