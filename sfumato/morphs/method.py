"""The decorator that registers a morph: a function of a `MorphTask` and of options that gives a `MorphPath`.

Options are keyword-only parameters annotated with `Option`, all with a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Protocol, TypeVar, Unpack

from sfumato.morphs.path import MorphPath
from sfumato.morphs.task import MorphTask
from sfumato.registry import Description, Entry, Registry


class MorphRecipe(Protocol):
    """A function that prepares a morph: it takes a task, and options that all have defaults."""

    def __call__(self, task: MorphTask, /) -> MorphPath: ...


@dataclass(frozen=True)
class MorphMethod(Entry[Callable[Concatenate[MorphTask, ...], MorphPath]]):
    """A morphing method as `MORPHS` knows it.

    Attributes:
        spacing: How its frames' weights are chosen by default, a name in `sfumato.morphs.spacings.base.SPACINGS`.
        guidance_scale, num_inference_steps: Where the user says nothing; None: the model's.
        encodes: Whether it needs latents of the images, by its options as far as they are given; where it does not,
            nothing is encoded.
    """

    spacing: str = "even"
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    encodes: Callable[[Mapping[str, Any]], bool] = lambda _: True


MORPHS: Registry[MorphMethod] = Registry("morph method", "sfumato.morphs")
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
