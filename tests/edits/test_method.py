"""What the type checker knows of a registered recipe, as a function and as an entry: options, their types, the task."""

from pathlib import Path

from tests.type_checks import check_types

SNIPPET = """
from typing import Annotated, Any

from sfumato.edits.method import METHODS, edit_method
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
    METHODS["toy"].function(task.source)  # wrong: what is not a task
    METHODS["toy"].function()  # wrong: no task
    model: Model = METHODS["toy"].function(task)  # wrong: it gives something else
    METHODS["toy"].function(task, strength=0.7)
    task.watch.during("a stage")  # there always is one, silent where nobody watches
    return toy(task, strength=0.7)
"""


def test_the_type_checker_finds_wrong_recipes_and_wrong_calls(tmp_path: Path) -> None:
    check_types(SNIPPET, tmp_path)
