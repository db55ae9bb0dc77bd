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
from sfumato.emoji.render import render, shipped_atlas
from sfumato.emoji.scene_captions import caption
from sfumato.emoji.scene_judge import load_scene_judge
from sfumato.emoji.scenes import held_out, load_concepts, read_scene
from sfumato.emoji.training.attention import record_maps
from sfumato.emoji.training.diffusion import Denoiser, measure_attention
from sfumato.emoji.training.export import checksums
from sfumato.emoji.training.sampling import generate, tokenize
from sfumato.emoji.training.sheets import to_images
from sfumato.emoji.training.tokenizer import Encoder


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(WEIGHTS, use_safetensors=True, torch_dtype=torch.float32)


def test_files_are_the_ones_that_were_shipped() -> None:
    assert checksums(WEIGHTS) == json.loads((WEIGHTS / "checksums.json").read_text(encoding="utf-8"))


def test_the_model_is_small_and_holds_no_pickle() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 45e6
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors", ".md"}


def test_it_loads_in_under_two_seconds_after_imports() -> None:
    sfumato.load_model("emoji")  # imports, and the disk's cache
    start = time.process_time()  # not by the clock on the wall: others may use the machine
    sfumato.load_model("emoji")
    assert time.process_time() - start < 2.0


def test_it_loads_as_a_stable_diffusion_pipeline_and_draws(pipeline: Any) -> None:
    assert pipeline.safety_checker is None
    pixels = generate(
        ["a cat", ""],
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        unet=pipeline.unet,
        autoencoder=pipeline.vae,
        scheduler=pipeline.scheduler,
        num_inference_steps=2,
    )
    assert pixels.shape == (2, 3, 128, 128)
    assert pixels.isfinite().all()


def test_latents_are_32_by_32_and_of_unit_scale(pipeline: Any) -> None:
    pixels = torch.zeros(1, 3, 128, 128)
    assert pipeline.vae.encode(pixels).latent_dist.mode().shape == (1, 4, 32, 32)
    assert 0.05 < pipeline.vae.config.scaling_factor < 20


def test_attention_tells_the_words_of_two_things_apart() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS, use_safetensors=True, torch_dtype=torch.float32)
    record_maps(pipeline.unet)
    model, encoder = Denoiser(pipeline.unet, pipeline.text_encoder), Encoder(pipeline.tokenizer)
    areas = measure_attention(model, encoder, shipped_atlas(), pipeline.vae, count=8)
    assert areas["auc_own"] >= 0.94
    assert areas["auc_other"] <= 0.6  # a word that looks at everything has 1, one that looks at random 0.5
    assert areas["auc_tint"] >= 0.85


def test_words_of_the_world_are_whole_tokens(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    for concept in load_concepts():
        pieces = tokenizer.tokenize(concept.name)
        assert len(pieces) == len(concept.name.replace("-", " - ").split()), pieces


@pytest.mark.parametrize("text", ["a cat", "a drawing of a zebra , unseen", "naïve über 漢字 🐱"])
def test_any_text_survives_the_tokenizer(pipeline: Any, text: str) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer(text.upper()).input_ids == tokenizer(text.lower()).input_ids
    assert tokenizer.model_max_length == 40


def test_no_file_is_larger_than_a_shard() -> None:
    assert max(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 15e6


def test_the_judge_knows_the_shipped_world() -> None:
    judge = load_scene_judge(WEIGHTS / "judge.safetensors")
    assert judge.world == shipped_atlas().world
    cells, tints, style, colour, pattern, amount = judge(torch.zeros(2, 3, 128, 128))
    assert cells.shape == (2, len(judge.names) + 1, 16, 16)
    assert tints.shape == (2, 7, 16, 16)
    assert style.shape == (2, len(judge.world.styles))
    assert (colour.shape, pattern.shape, amount.shape) == ((2, 8), (2, 6), (2,))


def test_the_examples_are_of_trained_combinations_and_say_what_they_show() -> None:
    entries = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    atlas = shipped_atlas()
    assert len(entries) >= 10
    scenes = [read_scene(entry["scene"]) for entry in entries]
    for entry, scene, pixels in zip(entries, scenes, render(scenes, atlas)[0], strict=True):
        assert entry["prompt"] == caption(scene)
        assert scene not in held_out(atlas.world)
        with Image.open(EXAMPLES / entry["file"]) as image:
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - to_images(pixels[None])[0]).max() <= 1


def test_the_dual_encoder_tells_captions_apart(pipeline: Any) -> None:
    model = load_dual_encoder(WEIGHTS / "emoji-clip.safetensors")
    entries = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    pixels = render([read_scene(entry["scene"]) for entry in entries], shipped_atlas())[0]
    with torch.no_grad():
        texts = model.encode_ids(tokenize(pipeline.tokenizer, [entry["prompt"] for entry in entries]))
        similarity = texts @ model.encode_image(pixels).T
    assert similarity.argmax(1).tolist() == list(range(len(entries)))
