"""Fréchet distance of two sets of images, FID when the features are Inception's."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.features import checked_pair


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Gives the squared Fréchet distance of two normal distributions fitted to features.

    .. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
              - 2\,\mathrm{tr}\,(\Sigma_1^{1/2}\,\Sigma_2\,\Sigma_1^{1/2})^{1/2}

    Range [0, inf); 0 for equal means and covariances; lower is closer. In float64. It falls with the number of images
    even when the distributions are the same, so only equal counts compare. The value is "FID" only with the features of
    the Inception network that everybody uses; name any other network beside the value.

    Reference: Heusel et al., 2017, https://arxiv.org/abs/1706.08500, Eq. 6; covariances with n - 1.

    Args:
        first, second: Features, (count, dim), two images each at least.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.
    """
    first, second = checked_pair(first, second)
    (mean_a, root_a), (mean_b, root_b) = _mean_and_root(first), _mean_and_root(second)
    return _distance(mean_a, root_a, mean_b, root_b)


def frechet_distance_of_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Gives the same from stored means, (dim,), and covariances, (dim, dim), such as published statistics.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, or a covariance that is not symmetric.
    """
    for mean, cov in ((mean_a, cov_a), (mean_b, cov_b)):
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or len(mean) != len(mean_a):
            shapes = tuple(mean.shape), tuple(cov.shape)
            raise ValueError(f"means must be (dim,) and covariances (dim, dim), of one dim; got {shapes}")
        if not bool(torch.isfinite(mean).all() and torch.isfinite(cov).all()):
            raise ValueError("means and covariances must be finite")
        if not torch.allclose(cov, cov.T, rtol=1e-6, atol=1e-8 * float(cov.abs().max())):
            raise ValueError("a covariance must be symmetric")
    return _distance(mean_a.double(), _root(cov_a), mean_b.double(), _root(cov_b))


def _distance(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> float:
    # With R'R the covariance: the eigenvalues of S1 S2 are the squared singular values of R1 R2', so the trace of its
    # root is their sum. No root is taken of a number that rounding could have made negative.
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    value = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(0.0, float(value))


def _mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, (dim,), and R, (rank at most, dim), with R'R the covariance."""
    mean = features.mean(dim=0)
    root = (features - mean) / (len(features) - 1) ** 0.5
    if len(root) > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R
    return mean, root


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance.double())
    root: Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return root
