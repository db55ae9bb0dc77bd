"""`--lora`, `--embedding` and `--vae`: on every command, in the recipe, and repeated by `--like` or missed aloud."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.errors import UsageError
from sfumato.models import loading
from tests.apps.conftest import Run, pixels
from tests.toy import toy_sd_folder, toy_sd_pipeline

PROMPTS = ("--source", "a photo of a cat", "--target", "a photo of a dog")


@pytest.fixture
def lora(folder: Path) -> Path:
    """A LoRA of the toy model, in the current folder."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    unet = toy_sd_pipeline().unet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    (folder / "pytorch_lora_weights.safetensors").rename("style.safetensors")
    return Path("style.safetensors")


@pytest.fixture
def word(folder: Path) -> Path:
    save_file({"emb_params": 3 * torch.ones(2, 32)}, "my-word.safetensors")
    return Path("my-word.safetensors")


def test_like_repeats_an_edit_with_all_that_was_added(
    edit: Run, run: Run, toy: Path, lora: Path, word: Path, tmp_path: Path
) -> None:
    """It ran without the LoRA, exit code 0, another image."""
    vae = toy_sd_folder(tmp_path / "other", seed=3) / "vae"
    added = (
        "--lora",
        f"{lora}:2",
        "--embedding",
        word,
        "--vae",
        vae,
        "--clip-skip",
        "1",
        "--target",
        "a photo of a my-word dog",
    )
    made: Any = edit(*added, "-o", "with.png")
    assert made["recipe"]["lora"][0]["scale"] == 2
    assert made["recipe"]["vae"]["path"] == str(vae)
    assert made["recipe"]["clip_skip"] == 1
    edit("-o", "without.png")
    run("edit", "--like", "with.png", "--model", toy, "--device", "cpu", "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("with.png")) != pixels(Path("without.png"))


def test_like_says_which_file_is_missing_or_has_changed(edit: Run, run: Run, toy: Path, lora: Path) -> None:
    edit("--lora", f"{lora}:2", "-o", "with.png")
    again = ("edit", "--like", "with.png", "--model", toy, "--device", "cpu")
    lora.rename("moved.safetensors")
    said = run(*again, code=2).stderr
    assert "style.safetensors (sha256" in said
    assert "is not at style.safetensors any more; give it with --lora, or edit without it: --lora none" in said
    run(*again, "--lora", "moved.safetensors:2", "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("with.png"))
    edit("-o", "without.png")
    run(*again, "--lora", "none", "-o", "none.png")
    assert pixels(Path("none.png")) == pixels(Path("without.png"))
    save_file({key: 2 * value for key, value in load_file("moved.safetensors").items()}, "style.safetensors")
    assert "the content of style.safetensors has changed" in run(*again, code=2).stderr


@pytest.mark.parametrize("entry", [3, "x", [3], [{"path": 5, "sha256": ""}], [{"path": "a", "sha256": "b"}]])
def test_a_damaged_list_of_loras_is_called_damaged(edit: Run, run: Run, toy: Path, entry: Any) -> None:
    from sfumato.images import load_image, read_recipe, save_image

    edit("-o", "plain.png")
    save_image(load_image("plain.png").image, "bad.png", recipe={**read_recipe("plain.png"), "lora": entry})
    assert "bad.png is damaged (lora" in run("edit", "--like", "bad.png", "--model", toy, code=1).stderr


@pytest.mark.parametrize("command", ["generate", "edit", "invert", "morph", "slider", "translate", "bench"])
def test_every_command_takes_them(command: str, run: Run) -> None:
    said = run(command, "--help").output
    for name in ("--lora", "--embedding", "--vae", "--clip-skip"):
        assert name in said


def test_a_missing_lora_is_told_before_the_model_is_loaded(run: Run, toy: Path) -> None:
    said = run("generate", "a cat", "--model", toy, "--lora", "gone.safetensors:0.5", code=1).stderr
    assert "there is no LoRA file gone.safetensors" in said


def test_a_hub_model_with_a_lora_keeps_its_commit() -> None:
    from sfumato.api.recipe import Recipe
    from sfumato.api.requests import GenerateRequest

    commit = "0123456789" * 4
    for revision, known in (
        (commit, commit),
        (f"{commit}+lora:ab@1", commit),
        (f"{commit}0", None),
        ("sha256:ab", None),
    ):
        assert Recipe(Path("a.png"), GenerateRequest(prompt="a cat"), {"revision": revision}).commit == known


@pytest.mark.parametrize(
    "words",
    [
        ("edit", "cat.png", *PROMPTS),
        ("slider", "cat.png", *PROMPTS),
        ("morph", "cat.png", "cat.png"),
        ("invert", "cat.png"),
        ("generate", "a cat"),
    ],
    ids=lambda words: words[0],
)
def test_compiled_blocks_and_offloading_are_asked_for_on_every_command(
    words: tuple[str, ...], run: Run, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, str | None]] = []

    def load(name: str, **given: Any) -> Any:
        asked.append((given["compile"], given["offload"]))
        raise UsageError("so far")

    monkeypatch.setattr(loading, "load_model", load)
    for more in ((), ("--compile",), ("--offload", "group")):
        run(*words, *more, code=2)
    assert asked == [(False, None), (True, None), (False, "group")]
