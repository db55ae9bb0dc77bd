"""Kernel distance of two sets of images, KID when the features are Inception's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sfumato.metrics.features import checked_pair


@dataclass(frozen=True)
class KernelDistance:
    """What `kernel_distance` found.

    Attributes:
        mean: Mean over the subsets.
        std: Standard deviation over the subsets (population); 0 for one subset.
        values: One a subset, (num_subsets,), float64.
        subset_size: Images of each set in a subset; smaller than what was asked for where a set is smaller.
    """

    mean: float
    std: float
    values: Tensor
    subset_size: int


def kernel_distance(
    first: Tensor,
    second: Tensor,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    generator: Generator | None = None,
) -> KernelDistance:
    r"""Gives the squared maximum mean discrepancy under the kernel (x'y / dim + 1)^3.

    .. math:: \frac{1}{m (m - 1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(b_i, b_j)
              - \frac{2}{m^2} \sum_{i, j} k(a_i, b_j)

    as the mean over subsets of m images of each set, drawn without replacement. Unbiased: near 0, and as often below
    as above, for sets from one distribution; larger is further apart. In float64.

    Reference: Bińkowski et al., 2018, https://arxiv.org/abs/1801.01401.

    Args:
        first, second: Features, (count, dim), two images each at least.
        num_subsets: Subsets drawn.
        subset_size: Images of each set in a subset. A set that holds fewer lowers it, with a warning: the spread of
            the values is then that of other subsets than published ones.
        generator: The source of the draws; none is needed where a subset is the whole of both sets.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, or numbers out of range.
    """
    first, second = checked_pair(first, second)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(f"need 1 subset of 2 images at least, got {num_subsets} of {subset_size}")
    size = min(subset_size, len(first), len(second))
    if size < subset_size:
        warnings.warn(
            f"the kernel distance takes subsets of {size} images, not of {subset_size}: a set holds no more; name the"
            " size beside the value",
            stacklevel=2,
        )
    values = []
    for _ in range(num_subsets):
        rows = [torch.randperm(len(features), generator=generator)[:size] for features in (first, second)]
        values.append(unbiased_mmd(first[rows[0]], second[rows[1]]))
    found = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(float(found.mean()), float(found.std(correction=0)), found, size)


def unbiased_mmd(first: Tensor, second: Tensor) -> float:
    """Gives the estimate above of two whole sets, which may differ in size."""
    first, second = checked_pair(first, second)

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(features: Tensor) -> Tensor:
        values, count = kernel(features, features), len(features)
        return (values.sum() - values.diagonal().sum()) / (count * (count - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())
