"""What tests of recipes share: one call with the fields of a task and the options of the recipe together."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.inversions.result import Inversion

FIELDS = {field.name for field in fields(EditTask)}


def edit_by(recipe: Callable[..., LatentEdit], model: Any, source: Inversion, **arguments: Any) -> LatentEdit:
    """The recipe's edit: arguments that a task has are the task's, all others are options."""
    given = {name: value for name, value in arguments.items() if name in FIELDS}
    return recipe(EditTask(model, source, **given), **{name: arguments[name] for name in arguments.keys() - FIELDS})
