"""Good runs of every command on a toy model, and what they promise: repeatable images, JSON alone on stdout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import __version__
from sfumato.images import read_recipe, save_image
from tests.apps.conftest import pixels, size

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_edit_says_what_it_did(cat: Path, toy: Path, run: Any) -> None:
    prompts = ("--source", "a photo of a cat", "--target", "a photo of a dog")
    result = run("edit", cat, *prompts, "--model", toy, "--steps", 2, "-o", "dog.png")
    assert "dog.png" in result.stdout
    assert "PSNR" in result.stdout
    assert "autoencoder alone" in result.stdout
    assert "network evaluations" in result.stdout
    assert result.stderr.count("the reconstruction differs") == 1  # a toy's autoencoder; warned of once
    assert size("dog.png") == (64, 64)
    assert read_recipe("dog.png")["target_prompts"] == ["a photo of a dog"]


def test_json_is_alone_on_stdout(edit: Any) -> None:
    answer = edit("-o", "dog.png")
    assert answer["images"] == ["dog.png"]
    assert answer["command"] == "edit"
    assert answer["reconstruction_psnr"] < answer["ceiling_psnr"] + 5
    assert answer["cost"]["evaluations"] > 0
    assert answer["recipe"] == read_recipe("dog.png")


def test_default_name_is_free(edit: Any, cat: Path) -> None:
    before = pixels(cat)
    names = [edit()["images"][0] for _ in range(2)]
    assert names == ["cat-edit.png", "cat-edit-v2.png"]
    assert pixels(cat) == before


def test_several_targets(edit: Any) -> None:
    answer = edit("--target", "a photo of a house", "-o", "out.png")
    assert answer["images"] == ["out.png", "out-2.png"]
    assert pixels(Path("out.png")) != pixels(Path("out-2.png"))


def test_further_results_overwrite_no_input(run: Any, cat: Path, toy: Path) -> None:
    Path("x-2.png").write_bytes(cat.read_bytes())
    args = ("--source", "a cat", "--target", "a dog", "--target", "a hat", "--model", toy)
    assert "x-2.png is an input" in run("edit", "x-2.png", *args, "-o", "x.png", code=2).stderr


def test_options_and_weights_reach_the_method(edit: Any) -> None:
    plain, weighted = (
        edit("-o", "plain.png", "--set", "self-replace-steps=[0.1, 0.6]"),
        edit("-o", "weighted.png", "--set", "self-replace-steps=[0.1, 0.6]", "--weight", "dog=2"),
    )
    assert plain["recipe"]["options"] == {"self_replace_steps": [0.1, 0.6]}
    assert weighted["recipe"]["options"]["weights"] == {"dog": 2.0}
    assert pixels(Path("plain.png")) != pixels(Path("weighted.png"))


def test_like_repeats_bit_for_bit(edit: Any, run: Any, toy: Path) -> None:
    edit("-o", "first.png", "--weight", "dog=1.5", "--guidance", 4, "--seed", 3, "--negative", "red")
    run("edit", "--like", "first.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))
    assert read_recipe("again.png") == read_recipe("first.png")


def test_like_can_be_changed(edit: Any, run: Any, toy: Path) -> None:
    edit("-o", "first.png", "--weight", "dog=1.5")
    run(
        "edit",
        "--like",
        "first.png",
        "--model",
        toy,
        "-o",
        "other.png",
        "--target",
        "a photo of a dog",
        "--guidance",
        2,
    )
    recipe = read_recipe("other.png")
    assert recipe["target_prompts"] == ["a photo of a dog"]
    assert recipe["guidance_scale"] == 2
    assert recipe["options"] == {"weights": {"dog": 1.5}}
    assert recipe["num_inference_steps"] == 2


def test_like_wants_the_same_picture(edit: Any, run: Any, cat: Path, toy: Path) -> None:
    edit("-o", "first.png")
    Image.new("RGB", (64, 64), (9, 99, 9)).save(cat)
    error = run("edit", "--like", "first.png", "--model", toy, "-o", "again.png", code=1).stderr
    assert "its content has changed" in error
    assert "give it as IMAGE" in error
    run("edit", cat, "--like", "first.png", "--model", toy, "-o", "other.png")  # given by hand it may be another

    cat.unlink()
    assert (
        "not at cat.png any more"
        in run("edit", "--like", "first.png", "--model", toy, "-o", "again.png", code=1).stderr
    )
    assert not Path("again.png").exists()


def test_masks(edit: Any, run: Any, cat: Path, toy: Path) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save("mask.png")
    edit("-o", "first.png", "--mask", "mask.png", "--mask-pixels")
    with Image.open("first.png") as first, Image.open(cat) as source:
        right = (40, 0, 64, 64)
        assert first.crop(right).tobytes() == source.convert("RGB").crop(right).tobytes()
        assert first.tobytes() != source.convert("RGB").tobytes()
    run("edit", "--like", "first.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))
    edit("-o", "words.png", "--mask-words", "cat", "--mask-threshold", 0.7)
    run("edit", "--like", "words.png", "--model", toy, "-o", "words-again.png")
    assert pixels(Path("words-again.png")) == pixels(Path("words.png"))
    edit("-o", "others.png", "--mask", "mask.png", "--mask-pixels", "--mask-invert", "--mask-feather", 8)
    with Image.open("others.png") as others, Image.open(cat) as source:
        left = (0, 0, 32, 64)
        assert others.crop(left).tobytes() == source.convert("RGB").crop(left).tobytes()
    run("edit", "--like", "others.png", "--model", toy, "-o", "others-again.png")
    assert pixels(Path("others-again.png")) == pixels(Path("others.png"))
    mask.point(lambda value: value // 2).save("mask.png")
    said = run("edit", "--like", "first.png", "--model", toy, "-o", "again.png").stderr
    assert "the mask mask.png has changed" in said
    Image.new("L", (8, 8), 255).save("small.png")
    error = run("edit", "--like", "first.png", "--model", toy, "--mask", "small.png", "-o", "bad.png", code=1).stderr
    assert "8x8 pixels, the image 64x64" in error
    assert not Path("bad.png").exists()


def test_like_wants_an_edit(run: Any, cat: Path, toy: Path) -> None:
    assert "carries no recipe" in run("edit", "--like", cat, code=1).stderr
    run("generate", "a cat", "--model", toy, "--steps", 2, "--size", "64x64", "-o", "drawn.png")
    assert "`sfumato generate`" in run("edit", "--like", "drawn.png", code=2).stderr


def test_like_neither_opens_nor_fetches_what_an_image_names(run: Any, edit: Any, toy: Path, cat: Path) -> None:
    """An image may come from anyone: its model must be embedded, in the cache, or named by the user."""
    edit("-o", "first.png")
    recipe = read_recipe("first.png")
    for index, name in enumerate((str(toy), "attacker/evil", "sdxl", "..", "cat.png", "\x1b[2J" * 99, "a\x00b")):
        with Image.open("first.png") as image:
            save_image(image, f"stranger-{index}.png", recipe={**recipe, "model": name})
        said = run("edit", "--like", f"stranger-{index}.png", "-o", "again.png", code=2).stderr
        assert "not opened or fetched by itself" in said
        assert "--model" in said
        assert "\x1b[2J" not in said
    run("edit", "--like", "stranger-1.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))


def test_like_repeats_with_a_model_of_the_cache(
    run: Any, edit: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    entry = tmp_path / "hub" / "models--owner--model"
    shutil.copytree(toy, entry / "snapshots" / commit)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    edit("-o", "first.png", "--model", "owner/model")
    assert read_recipe("first.png")["revision"] == commit
    run("edit", "--like", "first.png", "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))
    shutil.rmtree(entry / "snapshots" / commit / "unet")
    said = run("edit", "--like", "first.png", "-o", "again.png", code=2).stderr
    assert "not opened or fetched by itself" in said


def test_like_repeats_with_the_embedded_model(run: Any, edit: Any) -> None:
    edit("-o", "first.png", "--model", "emoji", "--source", "a cat", "--target", "a dog")
    run("edit", "--like", "first.png", "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))


def test_like_refuses_what_it_cannot_repeat(run: Any, edit: Any) -> None:
    edit("-o", "first.png")
    recipe = read_recipe("first.png")
    with Image.open("first.png") as image:
        save_image(image, "masked.png", recipe={**recipe, "mask": {"path": None, "words": []}})
        save_image(image, "damaged.png", recipe={**recipe, "seed": "three"})
    assert "give it with --mask" in run("edit", "--like", "masked.png", code=2).stderr
    assert "is damaged (seed" in run("edit", "--like", "damaged.png", code=1).stderr


def test_edit_of_a_drawn_picture(run: Any, toy: Path) -> None:
    args = ("--source", "a cat", "--target", "a dog", "--model", toy, "--steps", 2, "--size", "64x64", "--json")
    answer = json.loads(run("edit", *args).stdout)
    assert answer["images"] == ["a-cat-edit.png"]
    assert answer["ceiling_psnr"] is None  # infinite: there was nothing to encode
    assert answer["recipe"]["image"] is None
    run("edit", "--like", "a-cat-edit.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("a-cat-edit.png"))


def test_invert_then_edit(run: Any, edit: Any, cat: Path, toy: Path) -> None:
    prompt = ("--source", "a photo of a cat")
    args = ("--model", toy, "--steps", 2, "--reconstruction", "back.png", "--json")
    answer = json.loads(run("invert", cat, *prompt, *args).stdout)
    assert answer["inversion"] == "cat.safetensors"
    assert size(answer["reconstruction"]) == (64, 64)

    whole, spared = edit("-o", "whole.png"), edit("-o", "spared.png", "--inverted", "cat.safetensors")
    assert pixels(Path("spared.png")) == pixels(Path("whole.png"))
    assert spared["cost"]["evaluations"] < whole["cost"]["evaluations"]
    alone = run(
        "edit", "--target", "a photo of a dog", "--inverted", "cat.safetensors", "--model", toy, "-o", "alone.png"
    )
    assert "PSNR" in alone.stdout  # the inversion holds the image
    assert pixels(Path("alone.png")) == pixels(Path("whole.png"))
    Path("cat.safetensors").write_bytes(b"damaged")
    bad = run("edit", cat, *prompt, "--target", "a dog", "--inverted", "cat.safetensors", "--model", toy, code=1)
    assert "cat.safetensors is damaged" in bad.stderr


def test_fit(run: Any, toy: Path) -> None:
    Image.new("RGB", (70, 60), (200, 30, 30)).save("odd.png")
    args = ("edit", "odd.png", "--source", "a cat", "--target", "a dog", "--model", toy, "--steps", 2)
    assert "70x60 pixels" in run(*args, code=1).stderr
    run(*args, "--fit", "pad", "-o", "padded.png")
    assert size("padded.png") == (70, 60)
    run("edit", "--like", "padded.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("padded.png"))


def test_generate(run: Any, toy: Path) -> None:
    args = ("--model", toy, "--steps", 2, "--size", "64x64", "--count", 2, "--json")
    answer = json.loads(run("generate", "A cat, a hat!", *args).stdout)
    assert answer["images"] == ["a-cat-a-hat.png", "a-cat-a-hat-2.png"]
    assert size("a-cat-a-hat-2.png") == (64, 64)
    assert answer["recipe"]["prompt"] == "A cat, a hat!"


def test_methods_are_read_from_the_registry(run: Any) -> None:
    from sfumato.edits.method import METHODS
    from sfumato.inversions.method import INVERSIONS
    from sfumato.morphs.method import MORPHS
    from sfumato.morphs.spacings.base import SPACINGS

    kinds = {"methods": METHODS, "inversions": INVERSIONS, "morphs": MORPHS, "spacings": SPACINGS}
    answer, tables = json.loads(run("methods", "--json").stdout), run("methods").stdout
    for kind, registry in kinds.items():
        listed = {entry["name"]: entry for entry in answer[kind]}
        assert sorted(listed) == sorted(registry)
        for name, entry in registry.items():
            assert name in tables
            page = run("methods", name).stdout
            assert [option["name"] for option in listed[name]["options"]] == list(entry.parameters)
            for option in entry.parameters.values():
                assert option.name in page
                assert option.range.split(",")[0] in page
    for name in METHODS:
        itself = "the image itself; or its latents from" in run("methods", name).stdout
        assert itself == METHODS[name].from_image, name
    assert "did you mean" in run("methods", "prompt-to-promt", code=2).stderr


def test_methods_that_a_model_serves(run: Any, cat: Path, toy: Path) -> None:
    listed = run("methods", "--model", toy)
    assert f"{toy} does not serve uniedit-flow: it needs a rectified flow's levels" in listed.stdout
    answer = json.loads(run("methods", "--model", toy, "--json").stdout)
    lacks = {entry["name"]: entry["lacks"] for kind in answer.values() for entry in kind}
    assert lacks["prompt-to-prompt"] == lacks["flowedit"] == ""
    assert lacks["kv-edit"].startswith("attention on image and text as one sequence")
    assert "no: it needs attention" in run("methods", "kv-edit", "--model", toy).stdout
    refused = run("edit", cat, "--source", "a", "--target", "b", "--method", "kv-edit", "--model", toy, code=2)
    assert "method kv-edit needs attention on image and text" in refused.stderr


def test_options_of_the_inversion(run: Any, edit: Any, cat: Path, toy: Path) -> None:
    edit("-o", "one.png", "--set-inversion", "conditioned_on=current")
    assert read_recipe("one.png")["inversion_options"] == {"conditioned_on": "current"}
    run("edit", "--like", "one.png", "--model", toy, "-o", "two.png")
    assert pixels(Path("two.png")) == pixels(Path("one.png"))
    args = ("--source", "a photo of a cat", "--model", toy, "--steps", 2)
    run("invert", cat, *args, "--set", "conditioned-on=current")
    edit("-o", "three.png", "--inverted", "cat.safetensors")
    assert pixels(Path("three.png")) == pixels(Path("one.png"))
    error = run("invert", cat, *args, "--set", "conditionedon=current", code=2).stderr
    assert "unknown option 'conditionedon' of direct: did you mean 'conditioned_on'" in error


def test_models(run: Any) -> None:
    listed = json.loads(run("models", "--json").stdout)
    assert {"emoji", "sd15", "sdxl"} <= {model["name"] for model in listed["models"]}
    assert "diffusers folder" in run("models").stdout


def test_doctor(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.apps import doctor

    absent = doctor.Finding("model emoji", "missing", "not there", "install sfumato again")
    present = doctor.Finding("model emoji", "ok", "embedded")
    monkeypatch.setattr(doctor, "_embedded", lambda: present)
    report = json.loads(run("doctor", "--json").stdout)
    assert report["healthy"]
    assert {"python", "torch", "diffusers", "device", "memory"} <= {finding["name"] for finding in report["findings"]}
    monkeypatch.setattr(doctor, "_embedded", lambda: absent)
    assert "get it: install sfumato again" in run("doctor", code=1).stdout


def test_version(run: Any) -> None:
    assert run("--version").stdout.strip() == f"sfumato {__version__}"


def test_every_command_has_help(run: Any) -> None:
    for name in ("demo", "edit", "generate", "invert", "methods", "models", "doctor"):
        assert name in run("--help").stdout
        assert "Usage" in run(name, "--help").stdout


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError("no room"), 1, "out of memory"),
        (RuntimeError("a bug"), 1, "SFUMATO_DEBUG=1"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_what_goes_wrong_elsewhere(
    run: Any, cat: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("sfumato.models.loading.load_model", broken)
    result = run("edit", cat, "--source", "a cat", "--target", "a dog", code=code)
    assert says in result.stderr


def test_debugging_shows_the_traceback(cat: Path) -> None:
    program = "from sfumato.apps.cli import main; main()"
    args = ["edit", str(cat), "--source", "a cat", "--target", "a dog", "--size", "big"]
    command = [sys.executable, "-c", program, *args]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stderr == "error: --size must be WIDTHxHEIGHT in pixels, such as 512x512, got 'big'\n"
    environment = {**os.environ, "SFUMATO_DEBUG": "1"}
    debugged = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert debugged.returncode == 2
    assert "Traceback" in debugged.stderr


def test_the_shell_completes_commands() -> None:
    asked = {**os.environ, "_SFUMATO_COMPLETE": "complete_bash", "COMP_WORDS": "sfumato mo", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "sfumato"], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["morph", "models"]


def test_several_images(run: Any, edit: Any, cat: Path, toy: Path) -> None:
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save("dog.png")
    Image.new("RGB", (64, 96), (9, 99, 9)).save("tall.png")
    Path("out").mkdir()
    prompts = ("--source", "a photo of a cat", "--target", "a photo of a dog", "--target", "a red cat")
    common = ("--model", toy, "--steps", 2, "--seed", 5, "--device", "cpu")
    answer = json.loads(run("edit", cat, "dog.png", "tall.png", *prompts, *common, "-o", "out", "--json").stdout)
    names = [f"{stem}-edit{number}.png" for stem in ("cat", "dog", "tall") for number in ("", "-2")]
    assert answer["images"] == [str(Path("out") / name) for name in names]
    assert [picture["recipe"]["seed"] for picture in answer["pictures"]] == [5, 6, 7]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(names)
    run("edit", "dog.png", *prompts, *common, "--seed", 6, "-o", "alone.png")
    with Image.open("alone.png") as alone, Image.open("out/dog-edit.png") as together:
        assert np.abs(np.asarray(alone, int) - np.asarray(together, int)).max() <= 1
    run("edit", "--like", "out/tall-edit.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("out/tall-edit.png"))
    said = run("edit", cat, "dog.png", "--like", "out/tall-edit.png", "--model", toy).stdout
    assert "cat-edit.png" in said
    assert "dog-edit-2.png" in said


def test_several_images_that_cannot_be(run: Any, cat: Path, toy: Path) -> None:
    Path("more").mkdir()
    Image.new("RGB", (65, 64)).save("more/cat.png")
    args = ("--source", "a cat", "--target", "a dog", "--model", toy, "--steps", 2)
    assert "-o must be a folder that exists" in run("edit", cat, "more/cat.png", *args, "-o", "x.png", code=2).stderr
    assert "two images are called cat" in run("edit", cat, "more/cat.png", *args, code=2).stderr
    Path("more/cat.png").rename("odd.png")
    said = run("edit", cat, "odd.png", *args, code=1).stderr
    assert "image 2 of 2 (odd.png): the image has 65x64 pixels" in said
    assert "--inverted holds one image" in run("edit", cat, "odd.png", *args, "--inverted", "x", code=2).stderr
    assert not list(Path().glob("*-edit*"))
