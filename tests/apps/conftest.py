"""A toy model folder, an image, and a way to run the command."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.models import loading
from tests.command import invoke
from tests.toy import toy_sd_folder

Run = Callable[..., Any]

_loaded = functools.cache(sfumato.load_model)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder at toy width."""
    return toy_sd_folder(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture
def loaded_once(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that add nothing to a model share one toy and one embedded model: loading takes longer than a run."""

    def load(name: Any, *, device: str | None, **given: Any) -> Any:
        shared = name in (str(toy), "emoji") and not any(given.values())
        return _loaded(name, device=device) if shared else sfumato.load_model(name, device=device, **given)

    monkeypatch.setattr(loading, "load_model", load)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test."""
    for name in ("SFUMATO_DEBUG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cat(folder: Path) -> Path:
    """An image of 64x64."""
    values = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC).save(folder / "cat.png")
    return Path("cat.png")


@pytest.fixture
def run() -> Run:
    """Runs `sfumato` with arguments and checks the exit code; None: any of a refusal."""

    def run(*args: Any, code: int | None = 0) -> Any:
        result = invoke(*args)
        assert result.exit_code == code or (code is None and result.exit_code in (1, 2)), (
            f"exit code {result.exit_code}\n{result.stdout}\n{result.stderr}"
        )
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def edit(run: Run, toy: Path, cat: Path) -> Run:
    """Runs `sfumato edit cat.png` on the toy model, with JSON as the answer; options may be given anew."""

    def edit(*args: Any) -> dict[str, Any]:
        prompts = ("--source", "a photo of a cat", "--target", "a photo of a dog")
        result = run("edit", cat, *prompts, "--model", toy, "--steps", 2, "--device", "cpu", "--json", *args)
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    return edit


def pixels(path: Path) -> str:
    """A hash of an image's pixels."""
    with Image.open(path) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image."""
    with Image.open(path) as image:
        return image.size
