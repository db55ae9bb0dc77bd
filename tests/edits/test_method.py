"""What the type checker knows of a registered recipe: its options, their types, and that it takes a task."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNIPPET = """
from typing import Annotated, Any

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.models.base import Model
from sfumato.options import Option

texts: Any = {}


@edit_method("toy", **texts)
def toy(task: EditTask, *, strength: Annotated[float, Option("how much")] = 0.5) -> LatentEdit:
    return task.edited(task.source.clean)


@edit_method("no-task", **texts)  # wrong: it takes no task
def no_task(model: Model, *, strength: float = 0.5) -> LatentEdit:
    raise NotImplementedError


@edit_method("no-default", **texts)  # wrong: an option without a default
def no_default(task: EditTask, *, strength: float) -> LatentEdit:
    raise NotImplementedError


@edit_method("no-edit", **texts)  # wrong: it gives something else
def no_edit(task: EditTask) -> Model:
    raise NotImplementedError


def use(task: EditTask) -> LatentEdit:
    toy(1, 2, 3, strength=0.5)  # wrong: arguments that it does not take
    toy(task, strenght=0.5)  # wrong: an option that it does not have
    toy(task, strength="much")  # wrong: an option of another type
    return toy(task, strength=0.7)
"""


def test_the_type_checker_finds_wrong_recipes_and_wrong_calls(tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "--no-error-summary", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wrong = {number for number, line in enumerate(SNIPPET.splitlines(), start=1) if "# wrong" in line}
    lines = done.stdout.splitlines()
    found = {int(line.split(":")[1]) for line in lines if line.startswith(str(file)) and ": error:" in line}
    assert found == wrong, done.stdout + done.stderr
