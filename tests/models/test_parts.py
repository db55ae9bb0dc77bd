"""LoRAs, textual inversions, autoencoders from files: taken in full, named in the recipe, refused for what they are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sfumato import generate
from sfumato.conditions.align import token_indices
from sfumato.errors import ModelError, UsageError
from sfumato.models.loading import load_model
from sfumato.models.parts import read_parts
from tests.models.original_layout import original_checkpoint
from tests.toy import toy_sd_folder, toy_sd_pipeline, toy_sdxl_folder


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_sd_folder(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_sdxl_folder(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    unet = toy_sd_pipeline().unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder / "pytorch_lora_weights.safetensors"


def vectors(count: int, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def embedding(path: Path, key: str = "<cat-toy>", count: int = 3) -> Path:
    save_file({key: vectors(count)}, path)
    return path


# --- textual inversion -----------------------------------------------------------------------------------------------


def test_all_vectors_of_a_word_in_a_ready_pipeline_are_kept() -> None:
    """Only the first of them went into the prompt."""
    pipeline = toy_sd_pipeline()
    pipeline.load_textual_inversion({"<cat-toy>": vectors(3)}, token="<cat-toy>")
    model = load_model(pipeline)
    for prompt in ("a photo of <cat-toy> with a hat", "<cat-toy> <cat-toy>", "a cat"):
        theirs, _ = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)
        torch.testing.assert_close(model.encode_prompt(prompt).text, theirs)
    first = pipeline.tokenizer.convert_tokens_to_ids("<cat-toy>")
    assert model.text.ids("a <cat-toy>")[1:] == [first, first + 1, first + 2]
    # a user who knows diffusers' names for the further vectors may write them all
    assert model.text.ids("<cat-toy> <cat-toy>_1 <cat-toy>_2") == [first, first + 1, first + 2]


def test_the_revision_of_a_ready_pipeline_tells_words_apart() -> None:
    revisions = set()
    for word, seed in (("<a>", 0), ("<a>", 1), ("<b>", 0)):
        pipeline = toy_sd_pipeline()
        pipeline.load_textual_inversion({word: vectors(1, seed=seed)}, token=word)
        revisions.add(load_model(pipeline).revision)
    assert len(revisions) == 3


def test_a_word_of_several_vectors_is_one_word_to_the_methods(sd: Path, tmp_path: Path) -> None:
    model = load_model(sd, device="cpu", embeddings=embedding(tmp_path / "toy.safetensors"))
    prompt = "a photo of <cat-toy> with a hat"
    assert token_indices(model.text, prompt, "<cat-toy>") == [4, 5, 6]
    assert token_indices(model.text, prompt, "hat") == [9]


@pytest.mark.parametrize(("key", "word"), [("<cat-toy>", "<cat-toy>"), ("emb_params", "my-style")])
def test_embeddings_from_files_are_what_diffusers_makes_of_them(sd: Path, tmp_path: Path, key: str, word: str) -> None:
    path = embedding(tmp_path / "my style.safetensors", key)
    state = torch.get_rng_state()
    model = load_model(sd, device="cpu", embeddings=[path])
    assert torch.equal(torch.get_rng_state(), state)
    pipeline = toy_sd_pipeline()
    pipeline.load_textual_inversion({word: vectors(3)}, token=word)
    theirs, _ = pipeline.encode_prompt(f"a photo of {word}, red", torch.device("cpu"), 1, False)
    torch.testing.assert_close(model.encode_prompt(f"a photo of {word}, red").text, theirs)
    assert model.notes == (f"embedding my style.safetensors: write {word} in a prompt for its 3 vectors",)
    assert model.parts["embeddings"] == [
        {"path": str(path), "token": word, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    ]


def test_embeddings_of_sdxl_reach_both_encoders(sdxl: Path, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_file({"clip_l": vectors(2), "clip_g": vectors(2, 48)}, path)
    plain, model = load_model(sdxl, device="cpu"), load_model(sdxl, device="cpu", embeddings=path)
    before, after = (m.encode_prompt("a cat in style") for m in (plain, model))
    changed = [
        not torch.equal(a, b) for a, b in zip(*(c.text.split([32, 48], -1) for c in (before, after)), strict=True)
    ]
    assert changed == [True, True]
    ours, theirs = model.encode_prompt("a cat"), plain.encode_prompt("a cat")
    torch.testing.assert_close(ours.text, theirs.text)
    torch.testing.assert_close(ours.extras["pooled"], theirs.extras["pooled"])  # the end token is still found


def test_a_word_is_not_found_inside_another(sd: Path, tmp_path: Path) -> None:
    model = load_model(sd, device="cpu", embeddings=embedding(tmp_path / "art.safetensors", "emb_params", 1))
    plain = load_model(sd, device="cpu")
    assert model.text.ids("a smart cat") == plain.text.ids("a smart cat")
    assert model.text.ids("ART, cat") != plain.text.ids("ART, cat")


def test_embeddings_that_cannot_be_used(sd: Path, sdxl: Path, lora: Path, tmp_path: Path) -> None:
    path = embedding(tmp_path / "toy.safetensors")
    with pytest.raises(ModelError, match=r"made for another model: its vectors have 32 entries.* 32 and 48"):
        load_model(sdxl, device="cpu", embeddings=path)
    with pytest.raises(ModelError, match="'cat' is a word of the model already; rename"):
        load_model(sd, device="cpu", embeddings=embedding(tmp_path / "cat.safetensors", "emb_params"))
    with pytest.raises(ModelError, match=r"no textual inversion: .*is a LoRA"):
        load_model(sd, embeddings=lora)
    with pytest.raises(ModelError, match="is a pickle"):
        load_model(sd, embeddings=[tmp_path / "style.pt"])
    with pytest.raises(ModelError, match=r"no embedding file .*gone\.safetensors"):
        load_model(sd, embeddings=tmp_path / "gone.safetensors")
    save_file({"emb_params": vectors(1)}, tmp_path / "zq.safetensors")
    save_file({"emb_params": vectors(1, seed=1)}, tmp_path / "zq_1.safetensors")
    for names in (("zq", "zq_1"), ("zq_1", "zq")):
        with pytest.raises(ModelError, match="would be read as one word"):
            load_model(sd, device="cpu", embeddings=[tmp_path / f"{name}.safetensors" for name in names])
    with pytest.raises(UsageError, match="two embeddings"):
        load_model(sd, embeddings=[path, path])
    with pytest.raises(UsageError, match="embeddings must be"):
        load_model(sd, embeddings=3)  # type: ignore[arg-type]


# --- LoRA ------------------------------------------------------------------------------------------------------------


def test_loras_are_taken_in_every_way_they_are_written(sd: Path, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load_model(sd, device="cpu", lora=[(lora, 0.5)])
    monkeypatch.setenv("HOME", str(lora.parent))
    read = read_parts((lora, 0.5), None, None)
    for given in (f"{lora}:0.5", [f"{lora}:.5"], (str(lora), 0.5), f"~/{lora.name}:0.5"):
        assert read_parts(given, None, None) == read
    twice = load_model(sd, device="cpu", lora=[(lora, 0.25), f"{lora}:0.25"])
    for key, value in twice.unet.state_dict().items():
        torch.testing.assert_close(value, wanted.unet.state_dict()[key], rtol=1e-5, atol=1e-6)
    assert wanted.parts["lora"] == [
        {"path": str(lora), "scale": 0.5, "sha256": hashlib.sha256(lora.read_bytes()).hexdigest()}
    ]
    assert wanted.revision != load_model(sd, device="cpu").revision


@pytest.mark.parametrize("scale", ["101", "1.2.3", "-1e9"])
def test_scales_that_are_none_are_refused(sd: Path, lora: Path, scale: str) -> None:
    with pytest.raises(UsageError, match="scale of"):
        load_model(sd, lora=f"{lora}:{scale}")


def test_a_few_step_lora_brings_its_steps(sd: Path, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "lcm-lora-sd.safetensors").write_bytes(lora.read_bytes())
    model = load_model(sd, device="cpu", lora=tmp_path / "lcm-lora-sd.safetensors")
    assert (model.num_inference_steps, model.guidance_scale) == (4, 1.0)
    assert model.schedule.timesteps(4) == [999, 759, 499, 259]


# --- autoencoders ----------------------------------------------------------------------------------------------------


def test_another_autoencoder_takes_the_place_of_the_models_own(sd: Path, tmp_path: Path) -> None:
    other = toy_sd_pipeline(seed=5)
    folder = tmp_path / "vae"
    other.vae.save_pretrained(folder)
    toy_sd_folder(tmp_path / "model", seed=5)
    checkpoint = {k: v for k, v in original_checkpoint(other).items() if k.startswith("first_stage_model.")}
    save_file(checkpoint, tmp_path / "prefixed.safetensors")
    save_file({k.removeprefix("first_stage_model."): v for k, v in checkpoint.items()}, tmp_path / "bare.safetensors")
    weights = folder / "diffusion_pytorch_model.safetensors"
    for given in (
        folder,
        tmp_path / "model",
        weights,
        tmp_path / "prefixed.safetensors",
        tmp_path / "bare.safetensors",
    ):
        model = load_model(sd, device="cpu", vae=given)
        for key, value in model.vae.state_dict().items():
            torch.testing.assert_close(value, other.vae.state_dict()[key], msg=str(given))
        assert model.vae.config.scaling_factor == 0.18215
        assert set(model.parts) == {"vae"}
    assert load_model(sd, device="cpu", dtype="bf16", vae=folder).vae.dtype == torch.bfloat16
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert load_model(sd, device="cpu", vae=str(folder)).parts["vae"] == {"path": str(folder), "sha256": digest}


def test_vaes_that_cannot_be_used(sd: Path, lora: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a LoRA"):
        load_model(sd, vae=lora)
    with pytest.raises(ModelError, match=r"no VAE .*gone"):
        load_model(sd, vae=tmp_path / "gone")
    checkpoint = original_checkpoint(toy_sd_pipeline())
    save_file(checkpoint, tmp_path / "whole.safetensors")
    with pytest.raises(ModelError, match="is a whole model, not a VAE"):
        load_model(sd, vae=tmp_path / "whole.safetensors")
    half = {k: v for k, v in checkpoint.items() if k.startswith("first_stage_model.") and ".mid." not in k}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match=r"half\.safetensors"):
        load_model(sd, device="cpu", vae=tmp_path / "half.safetensors")


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_recipes_name_what_was_added(sd: Path, lora: Path, tmp_path: Path) -> None:
    model = load_model(
        sd, device="cpu", lora=f"{lora}:0.5", embeddings=embedding(tmp_path / "toy.safetensors"), vae=sd / "vae"
    )
    recipe: Any = generate(model, "a <cat-toy>", size=(64, 64), num_inference_steps=1).recipe
    assert recipe["lora"][0]["scale"] == 0.5
    assert recipe["embeddings"][0]["token"] == "<cat-toy>"
    assert recipe["vae"]["path"] == str(sd / "vae")
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["model"] == str(sd)


def test_skipped_text_layers_are_as_if_not_there(sd: Path) -> None:
    model, plain, shorter = load_model(sd, clip_skip=1), load_model(sd), load_model(sd)
    encoder = shorter.text_encoders[0]  # type: ignore[attr-defined]
    layers = getattr(encoder, "text_model", encoder).encoder.layers
    del layers[-1]
    embeds = model.encode_prompt("a cat").text
    torch.testing.assert_close(embeds, shorter.encode_prompt("a cat").text)
    assert not torch.allclose(embeds, plain.encode_prompt("a cat").text)
    assert model.recipe["clip_skip"] == 1
    assert model.revision == f"{plain.revision}+clip-skip:1"
    assert model.text_fingerprint != plain.text_fingerprint


def test_layers_that_are_skipped_in_sdxl_are_those_that_diffusers_skips(sdxl: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    wanted = StableDiffusionXLPipeline.from_pretrained(sdxl, torch_dtype=torch.float32).encode_prompt(
        "a cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, clip_skip=1
    )
    found = load_model(sdxl, device="cpu", clip_skip=1).encode_prompt("a cat")
    torch.testing.assert_close(found.text, wanted[0])
    torch.testing.assert_close(found.extras["pooled"], wanted[2])


def test_no_more_text_layers_are_skipped_than_there_are(sd: Path) -> None:
    with pytest.raises(ModelError, match="clip_skip must be at most 2 for the text encoder of"):
        load_model(sd, clip_skip=50)
    with pytest.raises(UsageError, match="clip_skip must be a whole number"):
        load_model(sd, clip_skip=-1)
