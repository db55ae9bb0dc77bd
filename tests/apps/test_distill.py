"""`sfumato distill` and `sfumato apply`: what they write and say; killed for real, they come to the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.apps.distill import SHEET
from sfumato.apps.distill import _sheet as sheet_of
from sfumato.images import read_recipe, save_image
from sfumato.images.video import save_frames
from tests.command import invoke
from tests.distillation.test_distilled import made

ROOT = Path(__file__).parents[2]


def write_images(place: Path) -> Path:
    """A folder of 33 images."""
    place.mkdir()
    for seed in range(33):
        values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((16, 16), Image.Resampling.BICUBIC).save(place / f"{seed:02d}.png")
    return place


@pytest.fixture
def images(folder: Path) -> Path:
    return write_images(folder / "images")


@pytest.fixture(scope="module")
def whole(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of an edit that it distilled without being disturbed."""
    place = tmp_path_factory.mktemp("whole")
    result = invoke(*command(toy, write_images(place / "images"), "-o", place / "dog.safetensors", "--json"))
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def command(toy: Path, *more: Any) -> list[str]:
    given: list[Any] = [
        "distill", "--source", "a cat", "--target", "a dog", "--model", toy, "--device", "cpu", "--steps", 2,
        "--method", "sdedit", "--set", "strength=0.5", "--training-steps", 3, "--width", 8, "--distance", "pixel",
        "--least-psnr", 0, "--unchanged", 0, *more,
    ]  # fmt: skip
    return [str(one) for one in given]


def test_an_edit_is_distilled_and_applied(run: Any, whole: dict[str, Any], images: Path) -> None:
    dog = Path(whole["distilled"])
    assert (dog.name, Path(whole["sheet"])) == ("dog.safetensors", dog.with_name("dog.png"))
    assert (whole["card"]["pairs_kept"], whole["card"]["options"]) == (33, {"strength": 0.5})
    assert read_recipe(whole["sheet"])["command"] == SHEET
    with Image.open(whole["sheet"]) as sheet:
        assert sheet.width > 4 * 100
    assert len(list((dog.parent / "dog.distill" / "pairs" / "images").glob("*.png"))) == 33

    cat = images / "00.png"
    run("apply", dog, cat, "-o", "out.png", "--strength", 0)
    with Image.open("out.png") as after, Image.open(cat) as before:
        assert after.convert("RGB").tobytes() == before.convert("RGB").tobytes()
    run("apply", dog, cat)
    assert read_recipe("00-dog.png")["command"] == "apply"
    answer = json.loads(run("apply", dog, images, "-o", "many", "--json").stdout)
    assert [Path(one["output"]).name for one in answer["results"]] == [f"{n:02d}.png" for n in range(33)]
    with Image.open("many/00.png") as one, Image.open("00-dog.png") as other:
        assert one.tobytes() == other.tobytes()
    movie = save_frames((Image.new("RGB", (32, 32), (20 * n, 0, 90)) for n in range(6)), "in.mp4", size=(32, 32), fps=6)
    run("apply", dog, movie, "-o", "out.mp4")
    assert Path("out.mp4").stat().st_size > 0


def test_an_image_that_is_no_sheet_is_not_replaced_by_one(folder: Path) -> None:
    edit, theirs, ours = Path("cat.safetensors"), Path("cat.png"), Path("cat-2.png")
    assert sheet_of(edit) == theirs
    Image.new("RGB", (8, 8)).save(theirs)
    assert sheet_of(edit) == ours
    save_image(Image.new("RGB", (8, 8)), ours, recipe={"command": SHEET})
    assert sheet_of(edit) == ours
    theirs.write_bytes(b"no image")
    assert sheet_of(edit) == ours


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_a_distillation_that_is_killed_comes_to_the_same(
    run: Any, toy: Path, whole: dict[str, Any], images: Path, folder: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "sfumato", *command(toy, images, "-o", "killed.safetensors")]
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    made_pairs = folder / "killed.distill" / "pairs" / "images"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (made_pairs.is_dir() and len(list(made_pairs.glob("[!.]*"))) >= 5):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    early = {path.name: path.stat().st_mtime_ns for path in made_pairs.glob("[!.]*")}
    assert 5 <= len(early) < 33
    run(*command(toy, images, "-o", "killed.safetensors"))
    assert {name: (made_pairs / name).stat().st_mtime_ns for name in early} == early
    some = [images / "00.png", images / "32.png"]
    run("apply", "killed.safetensors", *some, "-o", "one")
    run("apply", whole["distilled"], *some, "-o", "other")
    for path in Path("one").iterdir():
        with Image.open(path) as one, Image.open(Path("other") / path.name) as other:
            assert one.tobytes() == other.tobytes()


def test_what_is_wrong_is_said_in_a_line(run: Any, toy: Path, images: Path, folder: Path) -> None:
    made().save(folder / "edit.safetensors")
    (folder / "empty").mkdir()
    movie = save_frames((Image.new("RGB", (32, 32)) for _ in range(3)), "in.mp4", size=(32, 32), fps=6)
    cases: list[tuple[list[Any], str]] = [
        (command(toy, images), "-o is missing"),
        (command(toy, images, "-o", "dog.pt"), "must end in"),
        (command(toy, images, "-o", "none/dog.safetensors"), "does not exist"),
        (command(toy, images, "-o", "dog.safetensors", "--target", "a cat"), "are the same"),
        (command(toy, images / "00.png", "-o", "dog.safetensors"), "give at least 31 more"),
        (command(toy, images, "-o", "dog.safetensors", "--width", 12), "multiple of 8"),
        (command(toy, images, "-o", "dog.safetensors", "--least-change", 0), "least_change must be"),
        (command(toy, images, "-o", "dog.safetensors", "--set", "strenght=1"), "strength"),
        (["apply", "none.safetensors", images, "-o", "x"], "no distilled-edit"),
        (["apply", images / "00.png", images, "-o", "x"], "damaged or no .safetensors file"),
        (["apply", "edit.safetensors", images], "-o is missing"),
        (["apply", "edit.safetensors", "empty", "-o", "x"], "no images"),
        (["apply", "edit.safetensors", "gone.png"], "there is no file"),
        (["apply", "edit.safetensors", images / "00.png", "--strength", "nan"], "strength must be"),
        (["apply", "edit.safetensors", images / "00.png", "-o", images / "00.png"], "would be overwritten"),
        (["apply", "edit.safetensors", images, "-o", images], "would be overwritten"),
        (["apply", "edit.safetensors", movie, "-o", movie], "would be overwritten"),
        (["apply", "edit.safetensors", movie], "-o is missing"),
        (["apply", "edit.safetensors", movie, images, "-o", "x"], "give it alone"),
    ]
    for line, words in cases:
        assert words in run(*line, code=None).stderr.replace("\n", " "), line
    (images / "wrong.png").write_bytes(b"no image")
    result = run("apply", "edit.safetensors", images, "-o", "out", code=1)
    assert "wrong.png" in result.stderr
    assert len(list((folder / "out").iterdir())) == 33
