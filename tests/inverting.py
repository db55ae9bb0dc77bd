"""Inversions run on plain arguments."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Condition

_OF_TASK = {field.name for field in fields(InversionTask)}


def inverted(
    function: Callable[..., Inversion], model: Any, latents: Tensor, condition: Condition, **arguments: Any
) -> Inversion:
    """Runs an inversion: of the arguments, those that a task has go into the task, the others are options."""
    of_task = {name: value for name, value in arguments.items() if name in _OF_TASK}
    options = {name: value for name, value in arguments.items() if name not in _OF_TASK}
    return function(InversionTask(model, latents, condition, **of_task), **options)
