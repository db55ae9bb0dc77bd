"""Measures outside a mask: what is inside does not count, and the published definition beside the strict one."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from sfumato.metrics import background_distance, background_mse, background_psnr, background_ssim

SIDE = 32


class SquareDistance:
    """A distance that is a mean over positions which see one pixel each."""

    name = "square"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).square().mean(dim=(1, 2, 3))


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Two images that differ everywhere, and a mask of the upper right part."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 2, 3, SIDE, SIDE, generator=generator) * 2 - 1
    mask = torch.zeros(SIDE, SIDE)
    mask[:12, 20:] = 1
    return first, second, mask


def zeroed(pixels: Tensor, mask: Tensor) -> np.ndarray:
    return np.asarray(((pixels + 1) / 2 * (1 - mask)).double())


def test_strict_counts_the_background_alone(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, mask = scene
    outside = ((first - second) / 2)[..., mask == 0].double()
    expected = outside.square().mean(dim=(1, 2))
    assert background_mse(first, second, mask).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert background_psnr(first, second, mask).tolist() == pytest.approx((-10 * expected.log10()).tolist(), rel=1e-6)
    found = background_distance(first, second, mask, SquareDistance())
    assert found.tolist() == pytest.approx((4 * expected).tolist(), rel=1e-5)


def test_published_definition_is_the_whole_frame_of_blackened_pictures(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, mask = scene
    for row, (one, other) in enumerate(zip(zeroed(first, mask), zeroed(second, mask), strict=True)):
        options = {"protocol": "pie-2023"}
        arguments = first[row : row + 1], second[row : row + 1], mask
        assert float(background_mse(*arguments, **options)) == pytest.approx(((one - other) ** 2).mean(), rel=1e-6)
        decibels = peak_signal_noise_ratio(other, one, data_range=1.0)
        assert float(background_psnr(*arguments, **options)) == pytest.approx(decibels, rel=1e-6)
        similarity = structural_similarity(
            one, other, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(background_ssim(*arguments, **options)) == pytest.approx(similarity, abs=1e-6)
        distance = float(background_distance(*arguments, SquareDistance(), **options))
        assert distance == pytest.approx(4 * ((one - other) ** 2).mean(), rel=1e-5)


def test_published_definition_flatters(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, mask = scene
    share = 1 - float(mask.mean())
    strict, published = (background_mse(first, second, mask, protocol=name) for name in ("strict", "pie-2023"))
    assert published.tolist() == pytest.approx((strict * share).tolist(), rel=1e-9)


@pytest.mark.parametrize("protocol", ["strict", "pie-2023"])
def test_what_happens_inside_does_not_count(scene: tuple[Tensor, Tensor, Tensor], protocol: str) -> None:
    first, _, mask = scene
    edited = torch.where(mask.bool(), -first, first)
    options = {"protocol": protocol}
    assert not background_mse(edited, first, mask, **options).any()
    assert background_psnr(edited, first, mask, **options).isposinf().all()
    assert background_ssim(edited, first, mask, **options).tolist() == pytest.approx([1, 1], abs=1e-12)
    assert not background_distance(edited, first, mask, SquareDistance(), **options).any()


def test_strict_ssim_takes_the_windows_without_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 1, 3, 24, 30, generator=generator) * 2 - 1
    mask = torch.zeros(24, 30)
    mask[:, 18:] = 1  # so that the clear windows are those of the left part by itself
    alone = background_ssim(first[..., :18], second[..., :18], torch.zeros(24, 18))
    assert float(background_ssim(first, second, mask)) == pytest.approx(float(alone), abs=1e-12)
    mask[:, 5:] = 1
    assert background_ssim(first, second, mask).isnan().all()  # no window of 11 has room


@pytest.mark.parametrize("protocol", ["strict", "pie-2023"])
def test_a_mask_of_everything_leaves_nothing_to_measure(scene: tuple[Tensor, Tensor, Tensor], protocol: str) -> None:
    first, second, mask = scene
    masks = torch.stack([torch.ones_like(mask), mask])[:, None]
    for found in (
        background_mse(first, second, masks, protocol=protocol),
        background_psnr(first, second, masks, protocol=protocol),
        background_ssim(first, second, masks, protocol=protocol),
        background_distance(first, second, masks, SquareDistance(), protocol=protocol),
    ):
        assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("mask", "protocol", "message"),
    [
        (torch.full((SIDE, SIDE), 0.5), "strict", "only 0 .* and 1"),
        (torch.zeros(3, 1, SIDE, SIDE), "strict", "mask must be"),
        (torch.zeros(SIDE, 8), "strict", "mask must be"),
        (torch.zeros(SIDE, SIDE), "pie", "strict, pie-2023, got 'pie'"),
    ],
)
def test_mistakes_are_named(scene: tuple[Tensor, Tensor, Tensor], mask: Tensor, protocol: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        background_mse(scene[0], scene[1], mask, protocol=protocol)
