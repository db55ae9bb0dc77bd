"""Where the frames of a morph are taken along its path.

A path is a function of its weight and says nothing about pace: most of the change may happen within a tenth of it. The
spacings here look at frames through a distance, choose the weights, and say how even the result is. Any of them serves
any method. `even` looks at nothing; `step` is IMPUS's, `reschedule` DiffMorpher's; `uniform` and `beta` have files of
their own.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from sfumato.errors import UsageError
from sfumato.metrics.distance import Distance
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.pair_distances import Ruler
from sfumato.options import Option, parameters
from sfumato.registry import Entry, Function, Registry
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
class Spacing(Entry):
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
            watch: Asked for cancellation, told of progress.
            options: See `parameters`.

        Raises:
            UsageError: An option or the number of frames does not fit; before anything is drawn.
            SamplingError: The distance of two frames is not a number.
            Cancelled: The caller asked to stop.
        """
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 2:
            raise UsageError(f"num_frames must be at least 2 (both ends are frames), got {num_frames}")
        checked = self.check_options(options)
        spaced: Spaced = self.function(frames, distance, num_frames, watch=watch or Watch(), **checked)
        return spaced


SPACINGS: Registry[Spacing] = Registry("spacing", "sfumato.morphs.spacings")


def spacing(
    name: str, *, title: str, paper: str, summary: str, when: str, cost: str, sets_num_frames: bool = False
) -> Callable[[Function], Function]:
    """Registers the decorated function as a spacing; see `Spacing` for the fields."""

    def register(function: Function) -> Function:
        options = parameters(function)
        SPACINGS.add(Spacing(name, function, title, paper, summary, when, cost, options, sets_num_frames))
        return function

    return register


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


@spacing(
    "even",
    title="Even weights",
    paper="",
    summary="Takes frames at equal steps of the weight and looks at nothing.",
    when="For a first look, or where the method's own pace is what you want to see.",
    cost="each frame once",
)
def even(frames: Frames, distance: Distance, num_frames: int, *, watch: Watch) -> Spaced:
    """Equal steps of the weight; where the path has frames at some weights only, every so many of them."""
    weights = even_weights(num_frames)
    if (known := frames.path.weights) is not None:
        if num_frames > len(known):
            raise UsageError(f"this morph has frames at {len(known)} weights only, num_frames={num_frames} asks more")
        places = [round(k * (len(known) - 1) / (num_frames - 1)) for k in range(num_frames)]
        weights = [known[place] for place in places]
    ruler = Ruler(frames, distance)
    return spaced(ruler, weights, even=ruler.along(weights), looked=weights[1:-1])


@spacing(
    "step",
    title="Steps of one size (IMPUS)",
    paper="Yang et al., 2024, https://arxiv.org/abs/2311.06792",
    summary="From each frame on, finds the next one at a given distance by bisection; their number follows.",
    when="When the size of a step matters and the number of frames does not.",
    cost="three to six draws a frame on a smooth path, about thirty at a jump",
    sets_num_frames=True,
)
def step(
    frames: Frames,
    distance: Distance,
    num_frames: int,
    *,
    watch: Watch,
    delta: Annotated[float, Option("distance from one frame to the next", low=1e-9)] = 0.2,
    tolerance: Annotated[float, Option("how far off that distance may be", low=0)] = 1e-2,
    resolution: Annotated[float, Option("weights closer than this are one", low=1e-12, high=0.5)] = 1e-8,
    max_draws: Annotated[int, Option("stop after drawing this many frames", low=1)] = 1000,
) -> Spaced:
    """IMPUS's perceptually uniform sampling, as its released code does it.

    Every bisection starts from the last frame taken and reaches to the end, and assumes that the distance grows on the
    way. The last step may be much shorter than `delta`. At a jump no frame is `delta` away: the bisection ends beside
    it, and the next one takes the other side.

    Differs from the released code: stops after `max_draws`, says where the path turned back.
    """
    any_weight(frames, "step")
    ruler, looked, weights = Ruler(frames, distance), list[float](), [0.0]
    while ruler(weights[-1], 1.0) > delta and 1.0 - weights[-1] > resolution and len(looked) < max_draws:
        low, high = weights[-1], 1.0
        while True:
            watch.check(f", after {len(looked)} draws")
            middle = (low + high) / 2.0
            looked.append(middle)
            reached = ruler(weights[-1], middle)
            if abs(reached - delta) <= tolerance or high - low <= resolution or len(looked) >= max_draws:
                break
            low, high = (low, middle) if reached > delta else (middle, high)
        weights.append(middle)
    notes = []
    if len(looked) >= max_draws:
        notes.append(
            f"stopped after {max_draws} draws: the last step is longer; take a larger delta, or more max_draws"
        )
    if 1.0 - weights[-1] > resolution or len(weights) == 1:
        weights.append(1.0)
    if len(weights) != num_frames:
        notes.append(f"steps of {delta:g} make {len(weights)} frames; {num_frames} were asked for")
    return spaced(ruler, weights, looked=looked, notes=notes, record={"draws": len(looked)})


@spacing(
    "reschedule",
    title="Rescheduled sampling (DiffMorpher)",
    paper="Zhang et al., 2024, https://arxiv.org/abs/2312.07409",
    summary="One pass at even weights measures the pace, a second pass evens it out.",
    when="When each frame may cost no more than two draws.",
    cost="each frame twice",
)
def rescheduled(frames: Frames, distance: Distance, num_frames: int, *, watch: Watch) -> Spaced:
    """DiffMorpher's one pass; the result is even as far as distances add up and the pace is straight between frames."""
    any_weight(frames, "reschedule")
    ruler, first = Ruler(frames, distance), even_weights(num_frames)
    measured = ruler.along(first)
    weights, notes = reschedule(measured, first, num_frames), list[str]()
    if not any(measured):
        notes.append(f"all frames are equal to {distance.name}: the weights stay even")
    return spaced(ruler, weights, even=measured, looked=[*first[1:-1], *weights[1:-1]], notes=notes)


def reschedule(distances: Sequence[float], weights: Sequence[float], num_frames: int) -> list[float]:
    """Turns the pace measured at some weights into weights of even pace.

    The cumulative distance is taken as straight between the weights measured, and inverted at even values; a value
    that hits a measured one exactly belongs to the interval before it.

    Reference: Zhang et al., 2024, https://arxiv.org/abs/2312.07409.

    Args:
        distances: Between neighbouring frames, at least 0, one fewer than the weights.
        weights: Where these frames are, ascending.
        num_frames: How many weights are wanted, at least 2.

    Returns:
        Ascending weights, the first and last as given; even ones where all distances are zero.

    Raises:
        ValueError: The lengths do not fit.
    """
    if len(distances) != len(weights) - 1 or num_frames < 2:
        raise ValueError(f"{len(distances)} distances, {len(weights)} weights, {num_frames} frames do not fit")
    reached = [0.0, *itertools.accumulate(distances)]
    if reached[-1] <= 0.0:
        return [weights[0] + value * (weights[-1] - weights[0]) for value in even_weights(num_frames)]
    found = [weights[0]]
    for value in even_weights(num_frames)[1:-1]:
        right = min(max(bisect.bisect_left(reached, value * reached[-1]), 1), len(distances))
        part = (value * reached[-1] - reached[right - 1]) / (reached[right] - reached[right - 1])
        found.append(weights[right - 1] + part * (weights[right] - weights[right - 1]))
    return [*found, weights[-1]]
