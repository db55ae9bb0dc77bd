"""Spacings: how the weights of a morph's frames are chosen.

A path is a function of the weight, and does not change evenly with it: most of the change may happen within a tenth of
the path. The spacings in this folder, one a file, measure a distance between frames, choose the weights, and report how
even the result is. Any of them works with any method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Protocol, TypeVar, Unpack

from sfumato.errors import UsageError
from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.pair_distances import Ruler
from sfumato.registry import Description, Entry, Registry
from sfumato.watch import Watch


@dataclass(frozen=True)
class Spaced:
    """Where the frames are taken, and how far apart they are there.

    Attributes:
        weights: Morph weights of the frames, ascending; the first and last are the ends.
        distances: Between neighbouring frames.
        even_distances: The same at as many even weights, where they were measured on the way, else None.
        looked: Weights that were tried on the way, in order, without the ends.
        notes: What the user should know: a path that jumps or turns back, a tolerance that was not met.
        record: What was found on the way, for the recipe; JSON can say it.
    """

    weights: tuple[float, ...]
    distances: tuple[float, ...]
    even_distances: tuple[float, ...] | None = None
    looked: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    record: Mapping[str, object] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """Largest distance of neighbours over the mean, at least 1; 1 is perfectly even."""
        return spread_of(self.distances)


def spread_of(distances: Sequence[float]) -> float:
    """Largest over mean; 1 where all are zero."""
    total = math.fsum(distances)
    return max(distances) * len(distances) / total if total > 0.0 else 1.0


@dataclass(frozen=True)
class Spacing(Entry[Callable[Concatenate[Frames, Distance, int, ...], Spaced]]):
    """A way to choose weights as `SPACINGS` knows it; call it to use it.

    Attributes:
        sets_num_frames: Whether it finds the number of frames itself.
    """

    sets_num_frames: bool = False

    def __call__(
        self, frames: Frames, distance: Distance, num_frames: int, *, watch: Watch | None = None, **options: Any
    ) -> Spaced:
        """Chooses the weights of a morph's frames.

        Args:
            frames: What draws them, each weight once.
            distance: What is to be even.
            num_frames: At least 2, the ends among them.
            watch: Progress and cancellation.
            options: See `parameters`.

        Raises:
            UsageError: An option or the number of frames does not fit; before anything is drawn.
            SamplingError: The distance of two frames is not a number.
            Cancelled: The caller asked to stop.
        """
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 2:
            raise UsageError(f"num_frames must be at least 2 (both ends are frames), got {num_frames}")
        checked = self.check_options(options)
        return self.function(frames, distance, num_frames, watch=watch or Watch(), **checked)


SPACINGS: Registry[Spacing] = Registry("spacing", "sfumato.morphs.spacings")


class SpacingRecipe(Protocol):
    """A function that chooses weights: it takes what `Spacing.__call__` does, and options that all have defaults."""

    def __call__(self, frames: Frames, distance: Distance, num_frames: int, /, *, watch: Watch) -> Spaced: ...


Recipe = TypeVar("Recipe", bound=SpacingRecipe)


def spacing(
    name: str, *, sets_num_frames: bool = False, **description: Unpack[Description]
) -> Callable[[Recipe], Recipe]:
    """Registers the decorated function, whose type it keeps; see `Spacing` for the fields."""
    return SPACINGS.decorator(name, Spacing, sets_num_frames=sets_num_frames, **description)


def spaced(
    ruler: Ruler,
    weights: Sequence[float],
    *,
    even: Sequence[float] | None = None,
    looked: Sequence[float] = (),
    notes: Sequence[str] = (),
    record: Mapping[str, object] | None = None,
) -> Spaced:
    """The result at these weights, measured, with notes where the path turns back."""
    return Spaced(
        tuple(weights),
        tuple(ruler.along(weights)),
        None if even is None else tuple(even),
        tuple(looked),
        (*notes, *ruler.turns(weights)),
        record or {},
    )


def even_weights(num_frames: int) -> list[float]:
    """0 to 1 in equal steps."""
    return [k / (num_frames - 1) for k in range(num_frames)]


def any_weight(frames: Frames, name: str) -> None:
    """Refuses a path that has frames at some weights only.

    Raises:
        UsageError: It is one.
    """
    if frames.path.weights is not None:
        raise UsageError(
            f"this morph has frames at {len(frames.path.weights)} weights only, which spacing {name!r} cannot use: take"
            " 'even' or 'uniform'"
        )
