"""CONTRIBUTING's templates, as a reader follows them: one file each, and all places know the new name."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.bench.benchmark import Configuration
from sfumato.bench.editing import edit_configurations
from sfumato.edits.method import METHODS
from sfumato.inversions.method import INVERSIONS
from tests.command import invoke
from tests.toy import toy_sd_folder
from tools.pages import methods as page_of_methods

TESTS = Path(__file__).parent
METHOD, INVERSION = TESTS / "edits" / "my_method.py", TESTS / "inversions" / "my_inversion.py"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both files, as if they lay in the package."""
    registries: dict[str, tuple[Path, Any]] = {"edits": (METHOD, METHODS), "inversions": (INVERSION, INVERSIONS)}
    for name, (file, registry) in registries.items():
        package, known = importlib.import_module(f"sfumato.{name}"), dict(registry)
        (tmp_path / name).mkdir()
        (tmp_path / name / file.name).write_text(file.read_text("utf-8"), "utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
        monkeypatch.setattr(registry, "_entries", known)
        monkeypatch.setattr(registry, "_loaded", False)
    importlib.invalidate_caches()
    yield
    for name, (file, _) in registries.items():
        sys.modules.pop(f"sfumato.{name}.{file.stem}", None)
        vars(sys.modules[f"sfumato.{name}"]).pop(file.stem, None)


def run(*args: object) -> str:
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("file", "most"), [(METHOD, 40), (INVERSION, 40)])
def test_the_templates_are_files_that_are_run(file: Path, most: int) -> None:
    text = file.read_text("utf-8")
    assert f"```python\n{text}```\n" in (TESTS.parent / "CONTRIBUTING.md").read_text("utf-8")
    assert len(text.splitlines()) <= most


def test_what_one_reads_to_add_a_method_is_at_most_500_lines() -> None:
    """The template, what it imports of its folder (task, result, decorator), and how an option is declared."""
    package = TESTS.parent / "sfumato"
    nodes = ast.parse(METHOD.read_text("utf-8")).body
    imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    edits = [name.removeprefix("sfumato.edits.") for name in imported if name.startswith("sfumato.edits.")]
    read = [METHOD, package / "options.py", *(package / "edits" / f"{name}.py" for name in edits)]
    assert len(read) == 5
    assert sum(len(file.read_text("utf-8").splitlines()) for file in read) <= 500


@pytest.mark.parametrize("file", [METHOD, INVERSION])
def test_what_one_writes_besides_the_algorithm_is_at_most_25_lines(file: Path) -> None:
    text = file.read_text("utf-8")
    (function,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    first, *_, last = function.body[1:]  # after the docstring
    assert last.end_lineno is not None
    assert len(text.splitlines()) - (last.end_lineno - first.lineno + 1) <= 25


@pytest.mark.usefixtures("added")
def test_a_new_method_is_known_everywhere() -> None:
    assert "my-method" in METHODS
    assert "my-method" in run("methods")
    assert "strength" in run("methods", "my-method")
    listed = {entry["name"]: entry for entry in json.loads(run("methods", "--json"))["methods"]}
    assert [option["name"] for option in listed["my-method"]["options"]] == ["strength"]
    assert "| `my-method` | What it does, in a sentence. |" in page_of_methods.table()
    method = METHODS["my-method"]
    assert (method.title, method.paper) == ("My method", "Author et al., 2025, https://arxiv.org/abs/2501.00000")
    assert Configuration("my-method", "ddim") in edit_configurations([], [])
    assert Configuration("my-method", "direct") in edit_configurations(["my-method"], ["direct"])


@pytest.mark.usefixtures("added")
def test_a_new_method_edits_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (200, 120, 40)).save("cat.png")
    folder = toy_sd_folder(tmp_path / "model")
    prompts = ("--source", "a photo of a cat", "--target", "a photo of a dog")
    run(
        "edit", "cat.png", *prompts, "--method", "my-method", "--set", "strength=0.5", "--steps", 2, "--model", folder,
        "-o", "dog.png",
    )  # fmt: skip
    recipe = sfumato.images.read_recipe("dog.png")
    assert (recipe["method"], recipe["inversion"], recipe["options"]) == ("my-method", "ddim", {"strength": 0.5})


@pytest.mark.usefixtures("added")
def test_a_new_inversion_is_known_and_inverts(toy_model: Any) -> None:
    assert "my-inversion" in run("methods")
    assert "| `my-inversion` |" in page_of_methods.table()
    image = Image.new("RGB", (64, 64), (200, 120, 40))
    result = sfumato.invert(toy_model, image, prompt="a cat", method="my-inversion", num_inference_steps=2)
    assert result.inversion.method == "my-inversion"


def test_nothing_is_left_behind() -> None:
    assert "my-method" not in METHODS
    assert "my-inversion" not in INVERSIONS
