"""Structure distance: its matrix written out, its two ways of resizing, and a real (tiny, random) transformer."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.metrics import structure_distance
from sfumato.metrics.backbones import IMAGENET_MEAN, IMAGENET_STD
from sfumato.metrics.structure import resized_size, self_similarity, structure_input


def patches(inputs: Tensor) -> Tensor:
    """Stands for a network: 4 x 4 patches of the values."""
    batch = len(inputs)
    return inputs.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(batch, -1, 48)


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_similarity_is_the_cosine_of_every_pair() -> None:
    keys = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    found = self_similarity(keys)
    for row, matrix in zip(keys.double().numpy(), found.numpy(), strict=True):
        expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in row] for x in row]
        assert matrix == pytest.approx(np.array(expected), abs=1e-12)


def test_distance_is_the_mean_square_of_the_matrices() -> None:
    first, second = pictures(2, 3, 16, 16), pictures(1, 3, 16, 16, seed=1)
    found = structure_distance(first, second, patches, short_side=16)
    a, b = (self_similarity(patches(structure_input(x, protocol="strict", short_side=16))) for x in (first, second))
    assert found.tolist() == pytest.approx([float(((one - b[0]) ** 2).mean()) for one in a], rel=1e-12)
    assert not structure_distance(first, first, patches, short_side=16).any()


def test_strict_input_is_imagenets() -> None:
    pixels = pictures(1, 3, 16, 16)
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(
        structure_input(pixels, protocol="strict", short_side=16), (pixels / 2 + 0.5 - mean) / std, atol=1e-5
    )


def test_published_input_is_never_divided_by_255() -> None:
    pixels = pictures(1, 3, 16, 16)
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    values = ((pixels + 1) * 127.5).round()
    found = structure_input(pixels, protocol="pie-2023", short_side=16)
    assert torch.allclose(found, (values - mean) / std, atol=1e-3)
    assert found.max() > 500


def test_only_strict_resizes_with_antialiasing() -> None:
    stripes = torch.ones(1, 3, 63, 63)
    stripes[..., ::2] = -1
    strict, published = (structure_input(stripes, protocol=p, short_side=21) for p in ("strict", "pie-2023"))
    assert published[0, 0].unique().numel() == 2  # every third column as it is: black and white by turns
    black_to_white = 1 / 0.229
    assert strict[0, 0].std() < 0.15 * black_to_white  # near grey, where black and white would be at 0.5


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (224, 224)), ((512, 768), (224, 336)), ((768, 511), (336, 224)), ((100, 1000), (48, 480))],
)
def test_sizes_are_those_of_the_published_resize(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size) == expected


def test_colour_counts_less_than_layout() -> None:
    scene = torch.zeros(1, 3, 32, 32)
    scene[..., 8:24, 8:24] = 0.8
    moved = scene.roll(8, dims=3)
    brighter = scene * 0.9 + 0.05
    moved_by, recoloured_by = (float(structure_distance(scene, x, patches, short_side=32)) for x in (moved, brighter))
    assert recoloured_by < moved_by / 2


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="strict, pie-2023, got 'pie'"):
        structure_distance(pictures(1, 3, 8, 8), pictures(1, 3, 8, 8), patches, protocol="pie")  # type: ignore[arg-type]
