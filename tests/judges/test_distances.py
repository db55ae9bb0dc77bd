"""Distances by name, and what is said where one is not to be had."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.judges.distances import DISTANCES, load_distance
from sfumato.metrics.distance import Distance, PixelDistance
from sfumato.metrics.weights import weight_folders


class Halves:
    name = "halves"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean(dim=(1, 2, 3))


class Named:
    def __init__(self, name: str) -> None:
        self.name = name
        self.distance = "emoji" if name == "emoji" else None


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("SFUMATO_WEIGHTS", raising=False)
    assert all(folder.is_relative_to(tmp_path) for folder in weight_folders())
    return tmp_path


def model(name: str) -> Any:
    return Named(name)


def test_hands_a_distance_back() -> None:
    halves = Halves()
    assert load_distance(halves, model("emoji")) is halves


def test_the_emoji_model_has_its_own() -> None:
    for name in (None, "emoji"):
        distance = load_distance(name, model("emoji"))
        assert isinstance(distance, Distance)
        assert distance.name == "emoji"
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    found = distance(pictures, pictures.flip(0))
    assert found.shape == (2,)
    assert (found > 0).all()


def test_others_fall_back_on_pixels(no_weights: Path) -> None:
    assert isinstance(load_distance(None, model("some/other")), PixelDistance)
    assert isinstance(load_distance("pixel", model("some/other")), PixelDistance)


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg", "lpips-squeeze", "dists"])
def test_missing_weights_are_named_with_a_way_out(no_weights: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s)'{name}' needs weights.* put .*{no_weights}.*distance='pixel'"):
        load_distance(name, model("some/other"))
    with pytest.raises(UsageError, match="distance='emoji' suits"):
        load_distance(name, model("emoji"))


@pytest.mark.parametrize(("name", "close"), [("lpips_alex", "lpips-alex"), ("pixels", "pixel"), ("emojis", "emoji")])
def test_an_unknown_name_gets_the_closest(name: str, close: str) -> None:
    with pytest.raises(UsageError, match=f"unknown distance '{name}': did you mean '{close}'"):
        load_distance(name, model("emoji"))


def test_refuses_what_is_no_distance() -> None:
    with pytest.raises(UsageError, match="must be a name or a Distance"):
        load_distance(model("x"), model("emoji"))


def test_every_name_is_that_of_its_distance() -> None:
    assert {"emoji", "lpips-alex", "lpips-vgg", "lpips-squeeze", "dists", "pixel"} <= set(DISTANCES)
