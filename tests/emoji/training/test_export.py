"""How the embedded model is written: in the layout that every admitted version of transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from sfumato.emoji import WEIGHTS
from sfumato.emoji.training.export import checksums, export_pipeline
from sfumato.emoji.training.networks import (
    SIZES,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
)

TOKENIZER_FILES = {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
TOY = SIZES["toy"]


def check_layout(folder: Path) -> None:
    assert {path.name for path in (folder / "tokenizer").iterdir()} == TOKENIZER_FILES
    with safe_open(folder / "text_encoder" / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert "text_model.embeddings.token_embedding.weight" in names
    assert {name.split(".")[0] for name in names} == {"text_model"}


def test_the_shipped_model_has_the_layout_that_every_version_reads() -> None:
    check_layout(WEIGHTS)


def test_a_new_training_writes_the_same_layout(tmp_path: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    tokenizer(["a cat"], padding="max_length")  # the state that this leaves is not written
    torch.manual_seed(0)
    text_encoder = build_text_encoder(TOY, tokenizer)
    export_pipeline(
        tmp_path / "model",
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=build_unet(TOY),
        autoencoder=build_autoencoder(TOY),
        scheduler=build_scheduler(),
    )
    check_layout(tmp_path / "model")
    for name in TOKENIZER_FILES:
        assert (tmp_path / "model" / "tokenizer" / name).read_bytes() == (WEIGHTS / "tokenizer" / name).read_bytes()
    assert checksums(tmp_path / "model") == json.loads((tmp_path / "model" / "checksums.json").read_text())

    again = CLIPTextModel.from_pretrained(tmp_path / "model" / "text_encoder")
    for stored, trained in zip(again.parameters(), text_encoder.parameters(), strict=True):
        assert torch.equal(stored, trained.half().float())
