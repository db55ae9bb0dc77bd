"""Energies from the command line, and what the JSON says of the distances and candidates of an edit."""

from pathlib import Path
from typing import Any

import pytest

from sfumato.images import read_recipe

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_langevin_under_named_energies(edit: Any, run: Any, toy: Path) -> None:
    table = '{"text-agreement": 50, "stay-near": 0.01}'
    options = ("--set", f"energy={table}", "--set", "encoder=emoji-clip", "--set", "num_langevin_steps=2")
    answer = edit("--method", "langevin", *options, "-o", "out.png")
    assert read_recipe("out.png")["options"]["energy"] == {"text-agreement": 50, "stay-near": 0.01}
    assert len(answer["distances"]) == 3
    assert answer["distances"][0][0] < 0.1 < answer["distances"][2][0]
    run("edit", "--like", "out.png", "--model", toy, "-o", "again.png")
    assert read_recipe("again.png") == read_recipe("out.png")


def test_distances_and_candidates_are_told(edit: Any, run: Any, cat: Path, toy: Path) -> None:
    answer = edit("--method", "cycle-diffusion", "--set", "strength=1", "-o", "out.png")
    assert [len(step) for step in answer["distances"]] == [1, 1]
    assert answer["tried"] == []
    prompts = ("--source", "a photo of a cat", "--target", "a photo of a dog", "--model", toy, "--steps", 2)
    shown = run("edit", cat, *prompts, "--method", "cycle-diffusion", "--set", "strength=1", "-o", "text.png").stdout
    assert "distance of the latents" in shown
    search = ("--set", "try_strengths=[0.5, 1]", "--set", "energy=stay-near")
    answer = edit("--method", "cycle-diffusion", *search, "-o", "best.png")
    assert [candidate["options"]["strength"] for candidate in answer["tried"]] == [0.5, 1.0]
    assert answer["tried"][0]["agreement"] > answer["tried"][1]["agreement"]
    assert answer["distances"] is None
    assert edit("-o", "other.png")["distances"] is None  # prompt-to-prompt measures none


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("langevin", "energy=text-agrement", "did you mean 'text-agreement'?"),
        ("langevin", "energy=classifier:dgo", "did you mean 'dog'?"),
        ("langevin", "energy=text-agreement", "has no encoder of its own"),
        ("egsde", "experts=domian", "did you mean 'domain'?"),
        ("cycle-diffusion", "energy=domain", "energy domain cannot be used here"),
        ("cycle-diffusion", "energy=stay-near", "also give trials"),
    ],
)
def test_mistakes_are_named(run: Any, cat: Path, toy: Path, method: str, setting: str, message: str) -> None:
    prompts = ("--source", "a photo of a cat", "--target", "a photo of a dog", "--model", toy, "--steps", 2)
    error = run("edit", cat, *prompts, "--method", method, "--set", setting, code=2).stderr
    assert message in " ".join(error.split())
    assert [path.name for path in Path().iterdir()] == ["cat.png"]
