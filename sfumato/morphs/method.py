"""The decorator that registers a morph: a function of a `MorphTask` and of options that gives a `MorphPath`.

Options are keyword-only parameters annotated with `Option`, all with a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, Unpack

from sfumato.morphs.path import MorphPath
from sfumato.morphs.task import MorphTask
from sfumato.registry import MORPHS, Description, MorphMethod


class MorphRecipe(Protocol):
    """A function that prepares a morph: it takes a task, and options that all have defaults."""

    def __call__(self, task: MorphTask, /) -> MorphPath: ...


Recipe = TypeVar("Recipe", bound=MorphRecipe)


def morph_method(
    name: str,
    *,
    spacing: str = "even",
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    encodes: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    **description: Unpack[Description],
) -> Callable[[Recipe], Recipe]:
    """Registers the decorated function, whose type it keeps; see `MorphMethod` for the fields."""
    return MORPHS.decorator(
        name, MorphMethod, spacing=spacing, guidance_scale=guidance_scale, num_inference_steps=num_inference_steps,
        encodes=encodes, **description,
    )  # fmt: skip
