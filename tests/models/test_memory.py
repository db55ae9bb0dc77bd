"""An autoencoder within the memory at hand: images one by one, then tiles; and as it was where there is enough."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.models import memory
from tests.toy import toy_sd_pipeline

SIDE = 32
"""Of latents, twice the tiles of the toy autoencoder."""
IMAGE = 5 * 8 * (8 * SIDE) ** 2 * 4
"""Bytes that an image is expected to take: five planes of eight channels."""


@pytest.fixture
def model() -> Any:
    return sfumato.load_model(toy_sd_pipeline(), device="cpu")


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(3, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def leave(monkeypatch: pytest.MonkeyPatch, images: float | None) -> None:
    """Sets the memory that is free, in images."""
    free = None if images is None else memory.RESERVE + int(images * IMAGE)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)


def rows_of_calls(monkeypatch: pytest.MonkeyPatch, model: Any, name: str) -> list[tuple[int, bool]]:
    """Rows of each call of the autoencoder, and whether it works in tiles."""
    calls, own = [], getattr(model.vae, name)

    def called(batch: Tensor) -> Any:
        calls.append((len(batch), model.vae.use_tiling))
        return own(batch)

    monkeypatch.setattr(model.vae, name, called)
    return calls


@pytest.mark.parametrize(
    ("images", "rows"), [(None, [3]), (3.0, [3]), (2.9, [2, 1]), (1.0, [1, 1, 1])], ids=["unknown", "3", "2", "1"]
)
def test_as_many_images_at_once_as_fit(
    model: Any, latents: Tensor, monkeypatch: pytest.MonkeyPatch, images: float | None, rows: list[int]
) -> None:
    pixels = model.decode_latents(latents)
    again = model.encode_image(pixels)
    decoded, encoded = (rows_of_calls(monkeypatch, model, name) for name in ("decode", "encode"))
    leave(monkeypatch, images)
    rounding = {"rtol": 0.0, "atol": 1e-4}
    torch.testing.assert_close(model.decode_latents(latents), pixels, **rounding)
    torch.testing.assert_close(model.encode_image(pixels), again, **rounding)
    assert decoded == encoded == [(count, False) for count in rows]


def test_an_image_that_does_not_fit_is_made_of_tiles(
    model: Any, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.decode_latents(latents)
    model.vae.enable_tiling()
    tiles = torch.cat([model.decode_latents(one) for one in latents.split(1)])
    model.vae.disable_tiling()
    before = dict(vars(model.vae))
    calls = rows_of_calls(monkeypatch, model, "decode")
    leave(monkeypatch, 0.5)
    with pytest.warns(UserWarning, match="little memory is free: the autoencoder works in tiles"):
        assert torch.equal(model.decode_latents(latents), tiles)
    assert calls == [(1, True)] * 3
    assert not torch.equal(whole, tiles)
    after = dict(vars(model.vae))
    assert {name: after[name] for name in before} == before


def test_tiles_end_when_the_autoencoder_raises(model: Any, latents: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(batch: Tensor) -> Any:
        raise KeyError

    monkeypatch.setattr(model.vae, "decode", fails)
    leave(monkeypatch, -1.0)
    with pytest.warns(UserWarning, match="little memory"), pytest.raises(KeyError):
        model.decode_latents(latents)
    assert not model.vae.use_tiling


def test_an_autoencoder_that_is_looked_into_is_called_once(
    model: Any, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = rows_of_calls(monkeypatch, model, "decode")
    leave(monkeypatch, 0.5)
    model.vae.decoder.conv_in.register_forward_hook(lambda layer, inputs, output: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.decode_latents(latents)
    assert calls == [(3, False)]


def test_what_is_free_is_what_the_system_says() -> None:
    free = memory.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert memory.kilobytes("/proc/meminfo", "NoSuchLine") is None
    assert memory.kilobytes("/no/such/file", "MemAvailable") is None
