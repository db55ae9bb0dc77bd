"""`sfumato translate`: two models or one with two prompts, recipe and JSON, and mistakes in one line without a file."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sfumato.images import read_recipe
from tests.apps.conftest import pixels, size
from tests.toy_unconditional import toy_ddpm_pipeline


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two unconditional pixel-space models in diffusers folders."""
    folder = tmp_path_factory.mktemp("pair")
    for name, seed in (("cats", 0), ("dogs", 1)):
        toy_ddpm_pipeline(seed).save_pretrained(folder / name)
    return folder / "cats", folder / "dogs"


def test_two_models(run: Any, pair: Any, cat: Path) -> None:
    args = ("--from", pair[0], "--to", pair[1], "--steps", 3, "--size", "16x16", "--fit", "resize", "--seed", 3)
    answer = json.loads(run("translate", cat, *args, "-o", "dog.png", "--reconstruction", "back.png", "--json").stdout)
    assert answer["command"] == "translate"
    assert answer["images"] == ["dog.png"]
    (picture,) = answer["pictures"]
    assert picture["recipe"] == read_recipe("dog.png")
    assert picture["recipe"]["models"] == [str(path) for path in pair]
    assert picture["recipe"]["seed"] == 3
    assert (picture["reconstruction_psnr"] or math.inf) > 40  # null: infinite, equal to the last bit
    assert picture["cost"]["evaluations"] == 3 * 2  # int(0.85 * 3) steps: there, back, and the reconstruction
    assert size("dog.png") == size("back.png")
    assert pixels(Path("dog.png")) != pixels(Path("back.png"))

    shown = run("translate", cat, *args, "--method", "ddib", "-o", "bridge.png").stdout
    assert "kept of the source" in shown
    assert "6 network evaluations" in shown
    assert read_recipe("bridge.png")["method"] == "ddib"


def test_one_model_with_two_prompts(run: Any, toy: Path, cat: Path) -> None:
    args = ("--from", toy, "--source", "a cat", "--target", "a dog", "--steps", 2, "--strength", 1, "--eta", 0.5)
    answer = json.loads(run("translate", cat, *args, "--guidance", 3, "--json").stdout)
    recipe = read_recipe("cat-translated.png")
    assert answer["images"] == ["cat-translated.png"]
    assert recipe["target_prompt"] == "a dog"
    assert recipe["options"] == {"eta": 0.5, "strength": 1.0}
    assert answer["pictures"][0]["cost"]["evaluations"] == 2 + 2 * 2
    assert answer["reconstruction"] is None


def test_several_pictures(run: Any, pair: Any, cat: Path) -> None:
    Path("kitten.png").write_bytes(cat.read_bytes())
    Path("out").mkdir()
    args = ("--from", pair[0], "--to", pair[1], "--steps", 2, "--size", "16x16", "--fit", "resize", "--json")
    answer = json.loads(run("translate", cat, "kitten.png", *args, "-o", "out").stdout)
    assert answer["images"] == [str(Path("out") / f"{name}-translated.png") for name in ("cat", "kitten")]
    assert [picture["image"] for picture in answer["pictures"]] == answer["images"]
    assert json.loads(run("translate", cat, "kitten.png", *args).stdout)["images"][1] == "kitten-translated.png"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--to", "DOGS", "--eta", "0"], 2, "eta must be in (0, 1], got 0"),
        (["--to", "DOGS", "--strength", "0"], 2, "strength must be in (0, 1], got 0"),
        (["--to", "DOGS", "--refine-strength", "2"], 2, "refine_strength must be in [0, 1], got 2"),
        (["--to", "DOGS", "--refine-repeats", "0"], 2, "refine_repeats must be a whole number of at least 1, got 0"),
        (["--to", "DOGS", "--method", "ddib", "--eta", "0.5"], 2, "leave out eta"),
        (["--to", "DOGS", "--guidance", "0.5"], 2, "guidance_scale must be in [1, 100]"),
        (["--to", "DOGS", "-o", "cat.png"], 2, "is an input and would be overwritten"),
        (["--to", "DOGS", "-o", "nowhere/x.png"], 1, "does not exist"),
        (["--to", "nothing-here"], 1, "there is no model 'nothing-here'"),
        (["--to", "TOY"], 1, "translate between models whose latents have one shape"),
        ([], 2, "give --to, the other model; or --source and --target"),
        (["cat.png", "--to", "DOGS", "-o", "x.png"], 2, "-o must be a folder that exists, for 2 images"),
        (["cat.png", "--to", "DOGS", "--reconstruction", "x.png"], 2, "--reconstruction is for a single image, got 2"),
        (["cat.png", "--to", "DOGS"], 2, "two images are called cat"),
        (["missing.png", "--to", "DOGS"], 1, "missing.png"),
    ],
)
def test_mistakes_are_named(
    run: Any, pair: Any, toy: Path, cat: Path, args: list[str], code: int, message: str
) -> None:
    given = [str({"DOGS": pair[1], "TOY": toy}.get(arg, arg)) for arg in args]
    error = run("translate", cat, "--from", pair[0], "--steps", 2, *given, code=code).stderr
    assert message in " ".join(error.split())
    assert [path.name for path in Path().iterdir()] == ["cat.png"]


@pytest.mark.parametrize("option", ["--from-revision", "--to-revision"])
def test_a_revision_is_of_a_hub_model(run: Any, pair: Any, cat: Path, option: str) -> None:
    given = ("--from", pair[0], "--to", pair[1], option, "main")
    assert "revision" in run("translate", cat, *given, code=2).stderr
    assert not Path("cat-translated.png").exists()
