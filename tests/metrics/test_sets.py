"""Distances of sets of images: resizing, Fréchet, kernel, density and coverage, beside other ways to compute them."""

from itertools import permutations, product

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor

from sfumato.metrics import (
    clean_resize,
    density_coverage,
    features_of,
    frechet_distance,
    frechet_distance_of_moments,
    kernel_distance,
)
from sfumato.metrics.kernel import unbiased_mmd


def features(count: int, dim: int, *, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99 + seed), dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing + shift


def by_matrix_root(first: np.ndarray, second: np.ndarray) -> float:
    cov_a, cov_b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


@pytest.mark.parametrize(("count", "other", "dim"), [(200, 150, 16), (17, 40, 16), (500, 500, 3)])
def test_frechet_agrees_with_the_matrix_root(count: int, other: int, dim: int) -> None:
    first, second = features(count, dim), features(other, dim, seed=1, shift=0.5)
    expected = by_matrix_root(first.numpy(), second.numpy())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)
    moments = [m for x in (first, second) for m in (x.mean(0), x.T.cov())]
    assert frechet_distance_of_moments(*moments) == pytest.approx(expected, rel=1e-8)


def test_frechet_has_its_closed_form_on_one_axis() -> None:
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [11.0]])  # means 1, 8; deviations √2, √18
    assert frechet_distance(first, second) == pytest.approx(49 + (18**0.5 - 2**0.5) ** 2)


def test_frechet_is_exact_with_fewer_pictures_than_dimensions() -> None:
    first = features(6, 64)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    orthogonal = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    orthogonal[0][1, 0], orthogonal[1][1, 1] = 2, 2  # each of variance 2, in its own direction; means 1 apart each
    assert frechet_distance(*orthogonal) == pytest.approx(2 + 2 + 2)


def test_frechet_grows_with_the_shift() -> None:
    first = features(100, 8)
    found = [frechet_distance(first, first + shift) for shift in (0, 0.1, 0.5, 2.0)]
    assert found == pytest.approx([8 * shift**2 for shift in (0, 0.1, 0.5, 2.0)], abs=1e-8)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), "count 2 or more"),
        (torch.zeros(5, 3), torch.zeros(5, 4), "one network"),
        (torch.full((5, 3), float("nan")), torch.zeros(5, 3), "first hold NaN"),
        (torch.zeros(5), torch.zeros(5), "count, dim"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(first: Tensor, second: Tensor, message: str) -> None:
    for measure in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=message):
            measure(first, second)


def test_moments_that_are_none_are_refused() -> None:
    mean, cov = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="symmetric"):
        frechet_distance_of_moments(mean, cov, mean, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="of one dim"):
        frechet_distance_of_moments(mean, cov, torch.zeros(3), torch.eye(3))


def test_mmd_follows_its_definition() -> None:
    first, second = features(5, 3).numpy(), features(7, 3, seed=1).numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    expected = (
        np.mean([kernel(x, y) for x, y in permutations(first, 2)])
        + np.mean([kernel(x, y) for x, y in permutations(second, 2)])
        - 2 * np.mean([kernel(x, y) for x, y in product(first, second)])
    )
    assert unbiased_mmd(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_near_zero_for_one_distribution_and_not_for_two() -> None:
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(600, 4, generator=generator)
    same = kernel_distance(pool[:300], pool[300:], num_subsets=20, subset_size=100, generator=generator)
    apart = kernel_distance(pool[:300], pool[300:] + 1, num_subsets=20, subset_size=100, generator=generator)
    assert len(same.values) == 20
    assert abs(same.mean) < 0.2 < apart.mean
    assert same.std == pytest.approx(float(same.values.std(correction=0)))


def test_subsets_come_from_the_generator_alone() -> None:
    first, second = features(50, 4), features(60, 4, seed=1)
    found = [
        kernel_distance(first, second, num_subsets=3, subset_size=10, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0].values, found[1].values)
    assert not torch.equal(found[0].values, found[2].values)
    whole = kernel_distance(first, second[:50], num_subsets=2, subset_size=50)
    assert whole.values.tolist() == pytest.approx([unbiased_mmd(first, second[:50])] * 2, rel=1e-9)
    with pytest.raises(ValueError, match="2 images at least"):
        kernel_distance(first, second, subset_size=1)


@pytest.mark.parametrize("neighbours", [1, 5])
def test_density_and_coverage_agree_with_brute_force(neighbours: int) -> None:
    made, real = features(40, 3, seed=1).numpy(), features(30, 3).numpy()
    radius = [sorted(np.linalg.norm(real - x, axis=1))[neighbours] for x in real]
    inside = np.array([[np.linalg.norm(x - y) < r for y in made] for x, r in zip(real, radius, strict=True)])
    found = density_coverage(torch.tensor(made), torch.tensor(real), neighbours=neighbours)
    assert found.density == pytest.approx(inside.sum() / (neighbours * len(made)))
    assert found.coverage == pytest.approx(inside.any(axis=1).mean())


def test_density_and_coverage_at_their_ends() -> None:
    real = features(20, 2)
    assert density_coverage(real, real).coverage == 1.0
    assert density_coverage(real + 1000, real) == (0.0, 0.0)
    assert density_coverage(real[:1].expand(20, -1), real).coverage < 0.7  # one image over and over
    with pytest.raises(ValueError, match=r"in 1\.\.4 for 5 real images, got 5"):
        density_coverage(real, real[:5])


def test_resizing_is_pillows_on_each_channel() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = np.stack(
        [
            np.asarray(Image.fromarray(picture[..., c].astype(np.float32)).resize((9, 7), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
    ).clip(0, 255)
    found = (clean_resize(pixels, (7, 9))[0] + 1) * 127.5
    assert found.numpy() == pytest.approx(expected, abs=1e-3)
    assert clean_resize(pixels, 5).shape == (1, 3, 5, 5)


def test_resizing_is_antialiased_and_rounds_as_files_do() -> None:
    stripes = torch.ones(1, 3, 64, 64)
    stripes[..., ::2] = -1
    assert clean_resize(stripes, 8).abs().max() < 0.05  # without antialiasing: white or black
    faint = torch.full((1, 3, 8, 8), -1 + 0.4 / 127.5)
    assert clean_resize(faint, 4).max() == -1
    assert clean_resize(faint, 4, eight_bit=False).max() > -1
    with pytest.raises(ValueError, match="size must be at least 1"):
        clean_resize(stripes, 0)


def test_features_are_gathered_in_batches() -> None:
    pixels = torch.rand(5, 3, 4, 4)
    sizes: list[int] = []

    def network(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return batch.mean(dim=(2, 3))

    found = features_of(pixels, network, batch_size=2)
    assert sizes == [2, 2, 1]
    assert found.dtype == torch.float64
    assert torch.allclose(found, pixels.mean(dim=(2, 3)).double())
    with pytest.raises(ValueError, match="got 0 and 2"):
        features_of(pixels[:0], network, batch_size=2)
