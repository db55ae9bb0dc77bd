"""The shipped model: its files, its tokenizer, that it loads as a Stable Diffusion pipeline."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.emoji import EXAMPLES, WEIGHTS
from sfumato.emoji.dual_encoder import load_dual_encoder
from sfumato.emoji.judges import load_classifier
from sfumato.emoji.training.export import checksums
from sfumato.emoji.training.sampling import generate, tokenize
from sfumato.emoji.training.sheets import to_pixels
from sfumato.emoji.world import load_concepts


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(WEIGHTS, use_safetensors=True, torch_dtype=torch.float32)


def test_files_are_the_ones_that_were_shipped() -> None:
    assert checksums(WEIGHTS) == json.loads((WEIGHTS / "checksums.json").read_text(encoding="utf-8"))


def test_the_model_is_small_and_holds_no_pickle() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors", ".md"}


def test_it_loads_in_under_two_seconds_after_imports() -> None:
    sfumato.load_model("emoji")  # imports, and the disk's cache
    start = time.process_time()  # not by the clock on the wall: others may use the machine
    sfumato.load_model("emoji")
    assert time.process_time() - start < 2.0


def test_it_loads_as_a_stable_diffusion_pipeline_and_draws(pipeline: Any) -> None:
    assert pipeline.safety_checker is None
    pixels = generate(
        ["a cat face", ""],
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        unet=pipeline.unet,
        autoencoder=pipeline.vae,
        scheduler=pipeline.scheduler,
        num_inference_steps=2,
    )
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.isfinite().all()


def test_latents_are_16_by_16_and_of_unit_scale(pipeline: Any) -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    assert pipeline.vae.encode(pixels).latent_dist.mode().shape == (1, 4, 16, 16)
    assert 0.05 < pipeline.vae.config.scaling_factor < 20


def test_words_of_the_world_are_whole_tokens(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    for concept in load_concepts():
        pieces = tokenizer.tokenize(concept.name)
        assert len(pieces) == len(concept.name.replace("-", " - ").split()), pieces


@pytest.mark.parametrize("text", ["a cat face", "a drawing of a zebra , unseen", "naïve über 漢字 🐱"])
def test_any_text_survives_the_tokenizer(pipeline: Any, text: str) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer(text.upper()).input_ids == tokenizer(text.lower()).input_ids
    assert tokenizer.model_max_length == 32


def test_the_judge_loads_and_knows_the_concepts() -> None:
    classifier, names = load_classifier(WEIGHTS / "classifier.safetensors")
    assert names == [concept.name for concept in load_concepts()]
    concept, style = classifier(torch.zeros(2, 3, 64, 64))
    assert concept.shape == (2, len(names))
    assert style.shape == (2, 4)


def test_the_dual_encoder_tells_captions_apart(pipeline: Any) -> None:
    model = load_dual_encoder(WEIGHTS / "emoji-clip.safetensors")
    images = [Image.open(EXAMPLES / name).convert("RGB") for name in ("red-apple.png", "panda.png", "star.png")]
    pixels = to_pixels(np.stack([np.asarray(image) for image in images]))
    prompts = ["a red apple on a white background", "a panda on a purple background", "a star on a blue background"]
    with torch.no_grad():
        similarity = model.encode_ids(tokenize(pipeline.tokenizer, prompts)) @ model.encode_image(pixels).T
    assert similarity.argmax(1).tolist() == [0, 1, 2]
