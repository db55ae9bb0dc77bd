"""CLIP and DINO judges: tiny random networks from a folder, and what is said when one is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from sfumato.emoji import WEIGHTS
from sfumato.errors import ModelError, UsageError
from sfumato.images.pixels import to_pixels
from sfumato.judges.clip import CLIP_MEAN, CLIP_STD, clip_input, load_clip, load_dino
from sfumato.judges.clip_guide import ClipGuide
from sfumato.metrics import structure_distance, text_agreement


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_clip_gives_features_of_pictures_and_texts(clip_folder: Path) -> None:
    judge = load_clip(clip_folder)
    pictures, texts = (
        judge.image_features(pixels(2, 3, 48, 64)),
        judge.text_features(["a cat", "a dog " * 99]),
    )
    assert pictures.shape == texts.shape == (2, 16)
    assert judge.name == str(clip_folder)
    assert text_agreement(pictures, texts).abs().max() <= 1
    alone = judge.text_features(["a cat"])
    assert torch.allclose(alone, texts[:1], atol=1e-5)  # padding beside a longer text changes nothing


@pytest.mark.parametrize("texts", [[], "a cat"])
def test_texts_are_a_list(clip_folder: Path, texts: list[str]) -> None:
    with pytest.raises(UsageError, match="a list of one string"):
        load_clip(clip_folder).text_features(texts)


def test_clip_input_is_resized_cropped_and_normalised() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    found = clip_input(to_pixels(picture), 20)
    expected = np.asarray(picture.resize((30, 20), Image.Resampling.BICUBIC), dtype=np.float32)[:, 5:25] / 255
    expected = (expected - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    assert found[0].permute(1, 2, 0).numpy() == pytest.approx(expected, abs=1e-5)


def test_dino_gives_the_keys_of_the_last_layer(vit_folder: Path) -> None:
    keys = load_dino(vit_folder)
    inputs = pixels(2, 3, 32, 32)
    found = keys(inputs)
    assert found.shape == (2, 1 + 16, 32)
    assert keys(pixels(1, 3, 48, 40)).shape == (1, 1 + 30, 32)  # another size than its own

    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        before_last = model(inputs, output_hidden_states=True).hidden_states[-2]
        layer = next(m for n, m in model.named_modules() if n.endswith("2.layernorm_before"))
        projection = [m for n, m in model.named_modules() if n.endswith((".k_proj", ".key"))][2]
        assert torch.allclose(found, projection(layer(before_last)), atol=1e-5)


def test_structure_distance_by_a_real_transformer(vit_folder: Path) -> None:
    keys, pictures = load_dino(vit_folder), pixels(2, 3, 40, 40)
    for protocol in ("strict", "pie-2023"):
        found = structure_distance(pictures, pictures[:1], keys, protocol=protocol, short_side=32)  # type: ignore[arg-type]
        assert found[0] == pytest.approx(0, abs=1e-10)
        assert found[1] > 1e-6


def test_no_hook_stays_on_the_network(vit_folder: Path) -> None:
    keys = load_dino(vit_folder)
    with pytest.raises((ValueError, RuntimeError), match="channel"):
        keys(torch.zeros(1, 5, 32, 32))
    assert not keys._keys._forward_hooks


def test_a_missing_network_is_named_with_the_remedy(tmp_path: Path) -> None:
    for load in (load_clip, load_dino):
        with pytest.raises(ModelError, match=r"cannot load no-one/nothing as .*model\.safetensors"):
            load("no-one/nothing")
        with pytest.raises(ModelError, match="cannot load"):
            load(tmp_path)


def test_a_judge_that_is_not_in_the_cache_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", None)  # what would ask
    for load in (load_clip, load_dino):
        with pytest.raises(ModelError, match=r"no-one/nothing is not in the cache; get it with `hf download no-one/no"):
            load("no-one/nothing", cached=True)


def test_a_judge_is_taken_from_the_cache(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    entry = tmp_path / "models--some--clip"
    shutil.copytree(clip_folder, entry / "snapshots" / commit)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    expected = load_clip(clip_folder).text_features(["a cat"])
    assert torch.equal(load_clip("some/clip", cached=True).text_features(["a cat"]), expected)
    assert torch.equal(load_clip("some/clip").text_features(["a cat"]), expected)


def test_no_code_and_no_pickle_of_a_judge_runs(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    (folder / "transformers.py").touch()
    with pytest.raises(ModelError, match="holds Python code"):
        load_clip(folder)
    (folder / "transformers.py").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../evil.bin"}}')
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match="only safetensors files of its own folder"):
        load_clip(folder)


def test_a_judge_without_vocabulary_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="has no vocabulary"):
        load_clip(folder)


def test_loading_a_judge_leaves_the_random_state(vit_folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_dino(vit_folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_with_a_gap_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(vit_folder / "model.safetensors")
    name = next(name for name in state if "layernorm" in name and name.endswith("weight"))
    del state[name]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((vit_folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match="weights are missing"):
        load_dino(tmp_path)


def test_loading_a_judge_leaves_the_callers_draws_alone(clip_folder: Path, vit_folder: Path) -> None:
    for load in (lambda: load_clip(clip_folder), lambda: load_dino(vit_folder), lambda: ClipGuide.load(clip_folder)):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        load()
        assert torch.equal(torch.get_rng_state(), before)


def test_bytes_and_wrong_ranges_are_not_judged(clip_folder: Path) -> None:
    judge = load_clip(clip_folder)
    for spoilt in ((pixels(1, 3, 32, 32) + 1) * 127.5, torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"\[-1, 1\]"):
            judge.image_features(spoilt)
