"""`sfumato direction`, and an edit that takes what it made."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.images import read_recipe
from tests.apps.conftest import pixels

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def made(run: Any, toy: Path) -> Path:
    Path("cats.txt").write_text("a cat\na photo of a cat\n")
    Path("dogs.txt").write_text("a dog\na photo of a dog\nthe dog\n")
    banks = ("--source-sentences", "cats.txt", "--target-sentences", "dogs.txt")
    run("direction", "make", "cat", "dog", *banks, "--model", toy, "--device", "cpu", "-o", "way.safetensors")
    return Path("way.safetensors")


def test_make_list_show(made: Path, run: Any, toy: Path) -> None:
    (listed,) = json.loads(run("direction", "list", "--json").stdout)["directions"]
    shown = json.loads(run("direction", "show", made, "--model", toy, "--device", "cpu", "--json").stdout)
    assert listed["name"] == shown["name"] == "cat -> dog"
    assert shown["sentences"] == [2, 3]
    assert shown["fits"] is True
    assert "cat -> dog" in run("direction", "list").stdout
    text = run("direction", "show", made).stdout
    assert "2 and 3" in text
    assert "77 tokens x 32" in text


def test_make_from_templates(run: Any, toy: Path) -> None:
    answer = json.loads(run("direction", "make", "cat", "dog", "--model", toy, "--device", "cpu", "--json").stdout)
    assert answer["direction"] == "cat-to-dog.safetensors"
    assert answer["sentences"] == [84, 84]
    assert Path("cat-to-dog.safetensors").is_file()


def test_an_edit_takes_the_file(made: Path, edit: Any) -> None:
    options = ("--method", "pix2pix-zero", "--set", "attention-guidance=0")
    led = edit(*options, "--set", f"direction={made}", "-o", "led.png")
    edit(*options, "--set", f"direction={made}", "--set", "direction_scale=0", "-o", "kept.png")
    assert led["recipe"]["options"]["direction"] == "way.safetensors"
    assert read_recipe("led.png")["options"]["direction"] == "way.safetensors"
    assert pixels(Path("led.png")) != pixels(Path("kept.png"))


def test_listing_passes_over_other_files_and_names_damaged_ones(made: Path, run: Any) -> None:
    Path("other.safetensors").write_bytes(b"no tensors")
    whole = made.read_bytes()
    Path("hurt.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = run("direction", "list")
    assert "way.safetensors" in result.stdout
    assert "hurt.safetensors is damaged" in result.stderr
    assert "other" not in result.stdout + result.stderr
    Path("empty").mkdir()
    assert "no directions in empty" in run("direction", "list", "empty").stderr


def test_mistakes_end_with_one_line(made: Path, run: Any, toy: Path, cat: Path) -> None:
    assert "no direction at 'missing.safetensors'" in run("direction", "show", "missing.safetensors", code=1).stderr
    assert "is not a folder" in run("direction", "list", "nowhere", code=2).stderr
    assert "SOURCE is empty" in run("direction", "make", " ", "dog", code=2).stderr
    assert "give both" in run("direction", "make", "cat", "dog", "--source-sentences", "cats.txt", code=2).stderr
    missing = ("--source-sentences", "none.txt", "--target-sentences", "dogs.txt")
    assert "cannot read sentences from none.txt" in run("direction", "make", "cat", "dog", *missing, code=2).stderr
    assert "must end in" in run("direction", "make", "cat", "dog", "-o", "way.pt", "--model", toy, code=1).stderr
    prompts = ("--source", "a cat", "--target", "a dog", "--method", "pix2pix-zero", "--model", toy, "--steps", 2)
    refused = run("edit", cat, *prompts, "--set", "direction=cats.txt", code=1).stderr
    assert "cats.txt is damaged or no .safetensors file" in refused
