"""Training that goes on from a finished model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.emoji.training import train
from sfumato.emoji.training.diffusion import Denoiser, load_networks
from sfumato.emoji.training.export import export_pipeline
from sfumato.emoji.training.networks import (
    MAX_TOKENS,
    SIZES,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from sfumato.emoji.training.tokenizer import build_tokenizer
from sfumato.errors import ModelError
from tests.emoji.toy_world import toy_atlas, write_toy_atlas

TOY = SIZES["toy"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return build_tokenizer(toy_atlas(tmp_path).world.concepts, tmp_path / "tokenizer")


@pytest.fixture
def finished(tmp_path: Path, tokenizer: Any) -> Path:
    torch.manual_seed(1)
    text_encoder, unet, autoencoder = build_text_encoder(TOY, tokenizer), build_unet(TOY), build_autoencoder(TOY)
    export_pipeline(
        tmp_path / "finished",
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        autoencoder=autoencoder,
        scheduler=build_scheduler(),
    )
    return tmp_path / "finished"


def new_networks(tokenizer: Any, **sizes: Any) -> Denoiser:
    widths = replace(TOY, **sizes)
    return Denoiser(build_unet(widths), build_text_encoder(widths, tokenizer))


@torch.no_grad()
def drawn(model: Denoiser) -> torch.Tensor:
    """What the networks make of the same noise and words."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 4, 32, 32, generator=generator)
    ids = torch.randint(0, 9, (1, MAX_TOKENS), generator=generator)
    drawn: torch.Tensor = model.unet(noise, 500, model.text_encoder(ids)[0]).sample
    return drawn


def test_a_further_layer_of_the_text_encoder_begins_as_the_identity(finished: Path, tokenizer: Any) -> None:
    same, deeper = new_networks(tokenizer), new_networks(tokenizer, text_layers=2)
    assert not torch.allclose(drawn(same), drawn(deeper), atol=1e-3)
    for model in (same, deeper):
        load_networks(model, finished, tokenizer)
    assert torch.allclose(drawn(same), drawn(deeper), atol=1e-5)
    ids = torch.tensor([[1, 2, 3]])
    deeper.text_encoder(ids)[0].square().sum().backward()  # and the layer learns
    gradients = [p.grad for name, p in deeper.text_encoder.named_parameters() if "layers.1.mlp.fc2.weight" in name]
    assert gradients[0] is not None
    assert gradients[0].abs().max() > 0


def test_a_model_that_does_not_fit_is_refused(finished: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="networks of other sizes, see --size"):
        load_networks(new_networks(tokenizer, unet=(32, 16, 16)), finished, tokenizer)
    deeper = finished.with_name("deeper")
    export_pipeline(
        deeper,
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(replace(TOY, text_layers=2), tokenizer),
        unet=build_unet(TOY),
        autoencoder=build_autoencoder(TOY),
        scheduler=build_scheduler(),
    )
    with pytest.raises(ModelError, match=r"another text encoder: .*layers\.1\."):
        load_networks(new_networks(tokenizer), deeper, tokenizer)
    # the command's tokenizer knows the words of the package's concepts, too
    command = ["diffusion=0.01", f"--atlas={write_toy_atlas(tmp_path / 'toy.png')}", f"--folder={tmp_path / 'work'}"]
    with pytest.raises(SystemExit, match=f"error: {finished} knows other words than those of this world"):
        train.main([*command, f"--start-from={finished}", f"--go-on-from={finished}", "--size=toy", "--device=cpu"])
