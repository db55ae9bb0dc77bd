"""One policy for all metrics: values of another range, type or mode, and NaN, are refused, never measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.emoji.perceptual import EmojiDistance, EmojiFeatures
from sfumato.metrics import (
    PixelDistance,
    background_distance,
    background_mse,
    background_psnr,
    background_ssim,
    clean_resize,
    clip_accuracy,
    clip_score,
    consecutive_distances,
    density_coverage,
    directional_agreement,
    endpoint_fidelity,
    features_of,
    frechet_distance,
    kernel_distance,
    lpips_from_features,
    mse,
    perceptual_path_length,
    psnr,
    ssim,
    structure_distance,
    text_agreement,
)
from sfumato.metrics.dists import dists_from_features

MASK = torch.zeros(16, 16)
MASK[:8] = 1
Measure = Callable[[Tensor, Tensor], Any]


def means(pixels: Tensor) -> Tensor:
    return pixels.mean(dim=(2, 3))


def patches(inputs: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(inputs, 56).flatten(2).mT


OF_PIXELS: dict[str, Measure] = {
    "pixel": PixelDistance(),
    "emoji": EmojiDistance(),
    "emoji features": lambda a, b: EmojiFeatures()(a) - EmojiFeatures()(b),
    "structure": lambda a, b: structure_distance(a, b, patches),
    "background mse": lambda a, b: background_mse(a, b, MASK),
    "background psnr": lambda a, b: background_psnr(a, b, MASK),
    "background ssim": lambda a, b: background_ssim(a, b, MASK, protocol="pie-2023"),
    "background distance": lambda a, b: background_distance(a, b, MASK, PixelDistance()),
    "clean resize": lambda a, b: clean_resize(a, 8) - clean_resize(b, 8),
    "Fréchet": lambda a, b: frechet_distance(features_of(a, means), features_of(b, means)),
    "kernel": lambda a, b: kernel_distance(features_of(a, means), features_of(b, means), subset_size=2),
    "density": lambda a, b: density_coverage(features_of(a, means), features_of(b, means), neighbours=1),
    "steps of a morph": lambda a, b: consecutive_distances(a, PixelDistance()),
    "ends of a morph": lambda a, b: endpoint_fidelity(a, b[:1], b[-1:], PixelDistance()),
}


def images(seed: int) -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def to_bytes(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round().to(torch.uint8)


SPOILT: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "bytes": (to_bytes, "floats"),
    "values of 0 to 255": (lambda pixels: (pixels + 1) * 127.5, r"\[-1, 1\]"),
    "values a little too large": (lambda pixels: pixels * 1.5, r"\[-1, 1\]"),
    "whole numbers": (lambda pixels: pixels.round().int(), "floats"),
    "yes and no": (lambda pixels: pixels > 0, "floats"),
    "NaN": (lambda pixels: torch.where(pixels > 0.9, torch.nan, pixels), "nan"),
    "infinity": (lambda pixels: torch.where(pixels > 0.9, torch.inf, pixels), "inf"),
    "one channel": (lambda pixels: pixels[:, :1], "batch, 3, height, width"),
    "one axis too few": (lambda pixels: pixels[0], "batch, 3, height, width"),
    "no pixels": (lambda pixels: pixels[..., :0], "batch, 3, height, width"),
    "an array": (lambda pixels: pixels.numpy(), "must be a tensor"),
    "no storage": (lambda pixels: pixels.to("meta"), "floats"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("name", OF_PIXELS)
def test_pixels_of_another_kind_are_refused_by_every_metric(name: str, spoilt: str) -> None:
    measure, (spoil, message) = OF_PIXELS[name], SPOILT[spoilt]
    first, second = images(0), images(1)
    measure(first, second)
    measure(first.clamp(-1, 1) * 1.0005, second.double())  # rounding is no other range
    with pytest.raises(ValueError, match=message):
        measure(spoil(first), spoil(second))


def test_a_batch_is_refused_for_one_image_of_it() -> None:
    first, second = images(0), images(1)
    second[1] = (second[1] + 1) * 127.5
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\], got values in"):
        PixelDistance()(first, second)


COMPARED: dict[str, Callable[..., Any]] = {"mse": lambda a, b, data_range: mse(a, b), "psnr": psnr, "ssim": ssim}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: np.where(a > 0.9, np.nan, a), "NaN"),
        (lambda a: np.where(a > 0.9, np.inf, a), "NaN"),
        (lambda a: a > 0, "real numbers"),
        (lambda a: torch.from_numpy(a > 0), "real numbers"),
        (lambda a: a.astype(complex), "real numbers"),
        (lambda a: torch.from_numpy(a).to_sparse(), "dense"),
        (lambda a: torch.from_numpy(a).to("meta"), "dense"),
        (lambda a: a.astype(object), "real numbers"),
        (lambda a: "cat.png", "real numbers"),
        (lambda a: None, "real numbers"),
        (lambda a: [[1.0], [1.0, 2.0]], "array of numbers"),
    ],
)
@pytest.mark.parametrize("name", COMPARED)
def test_what_holds_no_numbers_is_refused(name: str, spoil: Callable[[Any], Any], message: str) -> None:
    values = images(0)[0].double().numpy()
    for pair in ((spoil(values), values), (values, spoil(values))):
        with pytest.raises(ValueError, match=message):
            COMPARED[name](*pair, data_range=2)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_values_wider_than_their_range_are_refused(name: str) -> None:
    first, second = images(0)[0], images(1)[0]
    measure = COMPARED[name]
    for data_range, factor in ((1, 1.0), (1, 127.5), (2, 127.5), (2, 1.2)):
        with pytest.raises(ValueError, match="wider than data_range"):
            measure(first * factor, second * factor, data_range=data_range)
        with pytest.raises(ValueError, match="wider than data_range"):
            measure(first / 8, second * factor, data_range=data_range)  # one of them is enough
    for data_range in (1, 2, 65535):
        with pytest.raises(ValueError, match="bytes, whose data_range is 255"):
            measure(to_bytes(first), to_bytes(second), data_range=data_range)
    for data_range in (True, "2", None, [2], -2.0, 10**400, float("nan")):
        with pytest.raises(ValueError, match="data_range must be positive"):
            measure(first, second, data_range=data_range)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "RGBA", "LA", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_images_are_compared_by_their_colours_alone(mode: str) -> None:
    red, green = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 255, 0))
    assert psnr(red, green, data_range=255) == pytest.approx(10 * np.log10(1.5))
    if mode == "P":
        spoilt = [image.quantize() for image in (red, green)]  # both are index 0
    elif mode in ("I;16", "LAB"):
        spoilt = [Image.new(mode, (16, 16))] * 2
    else:
        spoilt = [(image.convert("L") if mode in ("I", "F", "1") else image).convert(mode) for image in (red, green)]
    for pair in (spoilt, (red, spoilt[1]), (spoilt[0], green)):
        for measure in (psnr, ssim, COMPARED["mse"]):
            with pytest.raises(ValueError, match=f"mode '{mode}'.*convert it to RGB"):
                measure(*pair, data_range=255)
    with pytest.raises(ValueError, match="data_range is 255"):
        psnr(red, green, data_range=1)
    assert psnr(red.convert("L"), green.convert("L"), data_range=255) > 0


def test_features_of_nan_are_refused() -> None:
    good, bad = torch.ones(3, 4), torch.full((3, 4), float("nan"))
    for first, second in ((good, bad), (bad, good), (torch.full((3, 4), float("inf")), good)):
        for measure in (text_agreement, clip_score, frechet_distance, kernel_distance):
            with pytest.raises(ValueError, match="NaN or inf"):
                measure(first, second)
        with pytest.raises(ValueError, match="NaN or inf"):
            clip_accuracy(first, second[0], good[0])  # NaN is no failed edit
        for place in range(4):
            with pytest.raises(ValueError, match="NaN or inf"):
                directional_agreement(*[bad if k == place else good + k for k in range(4)])
    layer = [torch.full((1, 4, 2, 2), float("nan"))]
    with pytest.raises(ValueError, match="NaN or inf"):
        lpips_from_features(layer, layer, [torch.ones(4)])
    with pytest.raises(ValueError, match="NaN or inf"):
        dists_from_features(layer, layer, torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="NaN or inf"):
        structure_distance(images(0), images(1), lambda inputs: patches(inputs) * float("nan"))


def test_a_distance_of_nan_is_not_an_empty_background() -> None:
    with pytest.raises(ValueError, match="NaN or inf"):
        background_distance(images(0), images(1), MASK, lambda a, b: torch.full((2,), float("nan")))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        endpoint_fidelity(images(0), images(1)[:1], images(1)[1:], lambda a, b: torch.tensor(float("nan")))  # type: ignore[arg-type]
    for alphas in ([float("nan")], [1.5], [-0.1]):
        with pytest.raises(ValueError, match=r"alphas must lie in \[0, 1\]"):
            perceptual_path_length(lambda weight: images(0)[:1], PixelDistance(), alphas)


def test_a_kernel_distance_of_fewer_images_says_so() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="subsets of 30 images, not of 1000"):
        lowered = kernel_distance(features, features + 1, num_subsets=2, generator=torch.Generator().manual_seed(0))
    assert lowered.subset_size == 30
    asked = kernel_distance(features, features + 1, num_subsets=2, subset_size=20)
    assert asked.subset_size == 20
