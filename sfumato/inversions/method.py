"""The decorator that registers an inversion: a function of an `InversionTask` and of options that gives an `Inversion`.

Options are keyword-only parameters annotated with `Option`, all with a default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Protocol, TypeVar, Unpack

from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.registry import Description, Entry, Registry


class InversionRecipe(Protocol):
    """A function that inverts: it takes a task, and options that all have defaults."""

    def __call__(self, task: InversionTask, /) -> Inversion: ...


@dataclass(frozen=True)
class InversionEntry(Entry[Callable[Concatenate[InversionTask, ...], Inversion]]):
    """An inversion as `INVERSIONS` knows it.

    Attributes:
        source_guidance_scale: Guidance of the source branch at which the image is reconstructed; None: any, since the
            inversion corrects for it.
        serves_like: Name of the inversion whose methods it serves, too; "": of none.
        serves_only: Why it serves no method but those that name it; "": each method says what it refuses.
    """

    source_guidance_scale: float | None = 1.0
    serves_like: str = ""
    serves_only: str = ""


INVERSIONS: Registry[InversionEntry] = Registry("inversion", "sfumato.inversions")
Recipe = TypeVar("Recipe", bound=InversionRecipe)


def inversion(
    name: str,
    *,
    source_guidance_scale: float | None = 1.0,
    serves_like: str = "",
    serves_only: str = "",
    **description: Unpack[Description],
) -> Callable[[Recipe], Recipe]:
    """Registers the decorated function, whose type it keeps; see `InversionEntry` for the fields."""
    return INVERSIONS.decorator(
        name, InversionEntry, source_guidance_scale=source_guidance_scale, serves_like=serves_like,
        serves_only=serves_only, **description,
    )  # fmt: skip
