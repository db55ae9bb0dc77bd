"""What a recipe in an image may ask for, and edits from inversions in files, repeated."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato.images import read_recipe, save_image
from tests.apps.conftest import pixels

PROMPTS = ("--source", "a photo of a cat", "--target", "a photo of a dog")


def with_recipe(like: str, name: str, **change: Any) -> None:
    """Writes an image whose recipe is that of another with some entries changed."""
    with Image.open(like) as image:
        save_image(image, name, recipe={**read_recipe(like), **change})


@pytest.mark.parametrize(
    ("change", "option", "says"),
    [
        (
            {"num_inference_steps": 251},
            ("--steps", "2"),
            "num_inference_steps of 251, more than an image may: give --steps",
        ),
        ({"encode_steps": 10**9 - 1}, ("--encode-steps", "0"), "encode_steps of 999999999, more than an image may"),
        ({"target_prompts": ["a dog"] * 17}, ("--target", "a dog"), "target_prompts of 17, more than an image may"),
        ({"target_prompts": ["a" * 1001]}, ("--target", "a dog"), "target_prompts of 1001, more than an image may"),
        ({"source_prompt": "a" * 1001}, ("--source", "a cat"), "source_prompt of 1001, more than an image may"),
        ({"negative_prompt": "a" * 1001}, ("--negative", "a"), "negative_prompt of 1001, more than an image may"),
        ({"size": [2048, 2048], "fit": "resize"}, ("--size", "64x64"), "2048x2048 pixels, more than an image may"),
        (
            {"method": "masactrl", "options": {"steps": [1] * 65}},
            ("--method", "sdedit"),
            "steps=[1, 1, 1, 1, 1, 1, ...]",
        ),
        ({"options": {"self_replace_size": 161}}, ("--set", "self_replace_size=8"), "self_replace_size=161, more than"),
    ],
)
def test_a_recipe_asks_for_no_more_than_an_image_may(
    change: Any, option: tuple[str, ...], says: str, edit: Any, run: Any, toy: Path
) -> None:
    edit("-o", "first.png")
    with_recipe("first.png", "greedy.png", **change)
    like = ("edit", "--like", "greedy.png", "--model", toy, "-o", "again.png")
    assert says in run(*like, code=2).stderr
    assert not Path("again.png").exists()
    if "self" in says:
        run(*like, *option)


def test_a_recipe_opens_no_network(edit: Any, run: Any, toy: Path) -> None:
    edit("-o", "first.png", "--method", "sdedit")
    with_recipe("first.png", "stranger.png", method="egsde", options={"encoder": "somebody/clip"})
    error = run("edit", "--like", "stranger.png", "--model", toy, "-o", "again.png", code=2).stderr
    assert "name it with --set encoder=..." in error


def test_files_of_a_stranger_are_looked_at_here_alone(edit: Any, run: Any, toy: Path, tmp_path: Path) -> None:
    """What a recipe names elsewhere is neither opened nor hashed, though it is there."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    edit("-o", "first.png", "--mask-words", "cat")
    recipe = read_recipe("first.png")
    for name in ("secret.png", "secret.safetensors"):
        (elsewhere / name).write_bytes(Path("cat.png").read_bytes())
    with Image.open("first.png") as image:
        image.load()
    (here / "linked.png").symlink_to(elsewhere / "secret.png")
    hidden = {"path": str(elsewhere / "secret.safetensors"), "sha256": "0" * 64}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"image": {"path": str(elsewhere / "secret.png")}}, "give it as IMAGE"),
        ({"image": {"path": "../elsewhere/secret.png"}}, "give it as IMAGE"),
        ({"image": {"path": "linked.png"}}, "give it as IMAGE"),
        ({"mask": {"path": str(elsewhere / "secret.png")}}, "give it with --mask"),
        ({"inverted": hidden}, "give it with --inverted"),
        ({"method": "pix2pix-zero", "options": {"direction": hidden["path"]}}, "give it with --set direction="),
        ({"method": "pix2pix-zero", "options": {"direction": [hidden["path"]]}}, "give it with --set direction="),
        ({"lora": [{**hidden, "scale": 1.0}]}, "give it with --lora"),
        ({"embeddings": [hidden]}, "give it with --embedding"),
        ({"vae": hidden}, "give it with --vae"),
    ]
    os.chdir(here)
    Path("cat.png").write_bytes((elsewhere / "secret.png").read_bytes())
    opened: list[str] = []
    sys.addaudithook(
        lambda event, given: opened.append(str(given[0])) if event == "open" and "secret" in str(given[0]) else None
    )
    for change, remedy in changes:
        save_image(image, "stranger.png", recipe={**recipe, **change})
        said = run("edit", "--like", "stranger.png", "--model", toy, "-o", "again.png", code=None).stderr
        assert "neither in the current folder nor beside the image" in said, change
        assert remedy in said
    assert not opened
    save_image(image, "stranger.png", recipe={**recipe, **changes[0][0]})
    run("edit", str(elsewhere / "secret.png"), "--like", "stranger.png", "--model", toy, "-o", "again.png")  # given


@pytest.mark.parametrize(
    "change",
    [
        {"image": {"path": 5}},
        {"image": []},
        {"image": {"path": "a\0b"}},
        {"image": {"path": "cat.png", "sha256": 5}},
        {"size": []},
        {"size": [True, True]},
        {"size": [64.5, 64]},
        {"fit": "../x"},
        {"background": []},
        {"background": [300, 0, 0]},
        {"mask": "x"},
        {"mask": {"path": 3}},
        {"mask": {"words": "cat"}},
        {"mask": {"words": ["cat"], "threshold": 2}},
        {"method": 5},
        {"inversion": 5},
        {"options": []},
        {"inversion_options": 5},
        {"target_prompts": []},
        {"target_prompts": [1]},
        {"target_prompts": [" "]},
        {"seed": True},
        {"seed": 2**64},
        {"num_inference_steps": True},
        {"num_inference_steps": 0},
        {"guidance_scale": 10**300},
        {"guidance_scale": True},
        {"source_guidance_scale": "x"},
        {"encode_steps": 1.5},
        {"encode_steps": None},
        {"model": ""},
        {"model": 5},
        {"source_prompt": None},
        {"inverted": "x"},
        {"inverted": {"path": []}},
    ],
    ids=str,
)
def test_types_in_recipes_are_checked(change: Any, edit: Any, run: Any, toy: Path, cat: Path) -> None:
    save_image(Image.new("RGB", (64, 64)), "first.png", recipe=GOOD | change)
    before = sorted(Path().iterdir())
    error = run("edit", "--like", "first.png", "--model", toy, "-o", "again.png", code=1).stderr
    assert "the recipe in first.png is damaged" in error
    assert "give the options by hand" in error
    assert sorted(Path().iterdir()) == before


GOOD: dict[str, Any] = {
    "command": "edit",
    "sfumato": "0.1.0",
    "model": "emoji",
    "revision": "",
    "method": "sdedit",
    "inversion": None,
    "inversion_options": {},
    "source_prompt": "a cat",
    "target_prompts": ["a dog"],
    "negative_prompt": "",
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "source_guidance_scale": 1.0,
    "seed": 0,
    "size": None,
    "fit": None,
    "background": [255, 255, 255],
    "encode_steps": 0,
    "options": {},
    "mask": None,
    "image": {"path": "cat.png"},
}


def test_what_this_version_does_not_know_is_said(edit: Any, run: Any, toy: Path) -> None:
    edit("-o", "first.png")
    with_recipe("first.png", "newer.png", sampler="euler")
    assert (
        "says 'sampler', which this version does not know"
        in run("edit", "--like", "newer.png", "--model", toy, "-o", "again.png").stderr
    )
    assert pixels(Path("again.png")) == pixels(Path("first.png"))


def test_an_edit_from_a_file_is_repeated_bit_for_bit_or_says_what_it_needs(run: Any, toy: Path, cat: Path) -> None:
    common = ("--model", toy, "--device", "cpu")
    run("invert", cat, "-s", PROMPTS[1], "--negative", "a hat", "--steps", 2, "-o", "cat.safetensors", *common)
    cat.unlink()  # the inversion holds it
    first = run("edit", "--inverted", "cat.safetensors", "-t", PROMPTS[3], "-o", "first.png", "--json", *common)
    recipe = json.loads(first.stdout)["recipe"]
    assert recipe["inverted"]["path"] == "cat.safetensors"
    assert (recipe["source_prompt"], recipe["negative_prompt"]) == (PROMPTS[1], "a hat")
    like = ("edit", "--like", "first.png", *common)
    run(*like, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))

    save_image(Image.new("RGB", (64, 64), "red"), "other.png")
    run("invert", "other.png", "-s", PROMPTS[1], "--steps", 2, "-o", "other.safetensors", *common)
    Path("cat.safetensors").rename("moved.safetensors")
    assert "not at cat.safetensors any more; give it with --inverted" in run(*like, "-o", "b.png", code=1).stderr
    run(*like, "--inverted", "moved.safetensors", "-o", "third.png")
    assert pixels(Path("third.png")) == pixels(Path("first.png"))
    Path("other.safetensors").rename("cat.safetensors")
    assert "its content has changed" in run(*like, "-o", "b.png", code=1).stderr
    assert not Path("b.png").exists()


def test_a_random_seed_is_recorded_and_repeats(edit: Any, run: Any, toy: Path) -> None:
    answer = edit("-o", "first.png", "--method", "sdedit", "--seed", -1)
    assert answer["recipe"]["seed"] >= 0
    run("edit", "--like", "first.png", "--model", toy, "-o", "again.png")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))


def test_options_of_earlier_versions_still_work(edit: Any, run: Any, toy: Path) -> None:
    edit("-o", "new.png", "--set-inversion", "conditioned_on=current")
    edit("-o", "old.png", "--set-inversion", "told=from")  # as it was called before
    with_recipe("new.png", "older.png", inversion_options={"told": "from"})
    run("edit", "--like", "older.png", "--model", toy, "-o", "again.png")
    for name in ("old.png", "again.png"):
        assert pixels(Path(name)) == pixels(Path("new.png"))
        assert read_recipe(name)["inversion_options"] == {"conditioned_on": "current"}
    run("edit", "--like", "older.png", "--model", toy, "-o", "changed.png", "--set-inversion", "conditioned_on=next")
    assert pixels(Path("changed.png")) != pixels(Path("new.png"))


def test_an_edit_along_a_direction_of_a_file_is_repeated(run: Any, edit: Any, toy: Path) -> None:
    run("direction", "make", "cat", "dog", "--model", toy, "-o", "way.safetensors")
    edit("-o", "first.png", "--method", "pix2pix-zero", "--set", "direction=way.safetensors")
    like = ("edit", "--like", "first.png", "--model", toy, "-o", "again.png")
    run(*like)
    assert pixels(Path("again.png")) == pixels(Path("first.png"))
    Path("way.safetensors").rename("moved.safetensors")
    assert "give it with --set direction=..." in run(*like, code=1).stderr
    run(*like, "--set", "direction=moved.safetensors")
    assert pixels(Path("again.png")) == pixels(Path("first.png"))
