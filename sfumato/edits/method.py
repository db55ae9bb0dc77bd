"""Methods of editing: what a recipe is, and how it gets a name.

A recipe is a function of an `EditTask` and, as keyword-only parameters annotated with `Option`, of its own options. It
gives clean latents of all branches, branch 0 the source's reconstruction. Images, inversion, decoding and saving are
that of `sfumato/api/edit_run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, Unpack

from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.registry import METHODS, Description, Method


class EditRecipe(Protocol):
    """A function that edits: it takes a task, and options that all have defaults."""

    def __call__(self, task: EditTask, /) -> LatentEdit: ...


Recipe = TypeVar("Recipe", bound=EditRecipe)


def edit_method(
    name: str,
    *,
    inversions: tuple[str, ...] = ("ddim",),
    refuses: Mapping[str, str] | None = None,
    takes_mask: bool = False,
    **description: Unpack[Description],
) -> Callable[[Recipe], Recipe]:
    """Registers the decorated recipe, whose type it keeps; see `Method` for the fields, `inversions` are `starts`."""
    return METHODS.decorator(
        name, Method, starts=inversions, refuses=refuses or {}, takes_mask=takes_mask, **description
    )
