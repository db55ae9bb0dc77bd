"""Methods of editing: what a recipe is, and how it gets a name.

A recipe is a function of an `EditTask` and, as keyword-only parameters annotated with `Option`, of its own options. It
gives clean latents of all branches, branch 0 the source's reconstruction. Images, inversion, decoding and saving are
that of `sfumato/api/edit_run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Concatenate, Protocol, TypeVar, Unpack

from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.inversions.method import INVERSIONS
from sfumato.registry import Description, Entry, Registry


class EditRecipe(Protocol):
    """A function that edits: it takes a task, and options that all have defaults."""

    def __call__(self, task: EditTask, /) -> LatentEdit: ...


@dataclass(frozen=True)
class Method(Entry[Callable[Concatenate[EditTask, ...], LatentEdit]]):
    """An editing method as `METHODS` knows it.

    Attributes:
        named: Names of the inversions that it starts from, the default one first; empty: it starts from the image
            itself.
        refuses: Why each of the other inversions does not serve it, by its name; see `why_not`.
        takes_mask: Whether it has a mask of its own, which the user's mask replaces.
        guidance_scale: Where the user says nothing and the model is no few-step one, or one that takes the guidance
            scale as an input; None: the model's.
        guidance_interval: Whether its guidance can be limited to an interval of the run.
        cache_interval: Whether some steps can use features of earlier ones: its run is the sampling loop's, and not at
            each step something reads or changes the network.
    """

    named: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    takes_mask: bool = False
    guidance_scale: float | None = None
    guidance_interval: bool = True
    cache_interval: bool = True

    @property
    def from_image(self) -> bool:
        """Whether it starts from the image itself, so that it needs no inversion."""
        return not self.named

    @property
    def starts(self) -> tuple[str, ...]:
        """Names of all inversions that it starts from: those that it names, and those that serve like one of them."""
        like = (name for name, entry in INVERSIONS.items() if entry.serves_like in self.named)
        return tuple(dict.fromkeys([*self.named, *like]))

    @property
    def inversions(self) -> tuple[str, ...]:
        """Names of the inversions that serve it, the default one first; any holds the latents of the image itself."""
        return self.starts or tuple(INVERSIONS)

    @property
    def default_inversion(self) -> str:
        """The inversion to run where none is named; "" where none is needed."""
        return next(iter(self.named), "")

    def why_not(self, inversion: str) -> str:
        """Why an inversion that is not among `inversions` does not serve it."""
        entry = INVERSIONS[inversion]
        reason = self.refuses.get(inversion) or entry.serves_only or self.refuses.get(entry.serves_like)
        return reason or f"{entry.title} is not among those that it takes"


METHODS: Registry[Method] = Registry("method", "sfumato.edits")
Recipe = TypeVar("Recipe", bound=EditRecipe)


def edit_method(
    name: str,
    *,
    inversions: tuple[str, ...] = ("ddim",),
    refuses: Mapping[str, str] | None = None,
    takes_mask: bool = False,
    guidance_scale: float | None = None,
    guidance_interval: bool = True,
    cache_interval: bool = True,
    **description: Unpack[Description],
) -> Callable[[Recipe], Recipe]:
    """Registers the decorated recipe, whose type it keeps; see `Method` for the fields, `inversions` are `named`."""
    return METHODS.decorator(
        name, Method, named=inversions, refuses=refuses or {}, takes_mask=takes_mask, guidance_scale=guidance_scale,
        guidance_interval=guidance_interval, cache_interval=cache_interval, **description,
    )  # fmt: skip
