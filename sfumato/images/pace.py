"""How a sequence of frames is played: its speed, how long images stand still, and how movement starts and stops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sfumato import checks
from sfumato.errors import UsageError

Easing = Literal["linear", "smooth"]
EASINGS: tuple[Easing, ...] = get_args(Easing)

FASTEST = {".gif": 50.0, ".webp": 1000.0, ".apng": 1000.0, ".mp4": 240.0, ".mov": 240.0, ".webm": 240.0}
"""Frames a second at most; GIF counts in hundredths, and browsers slow a delay of one down."""
LONGEST_HOLD = 60.0

Shown = tuple[int, float]


@dataclass(frozen=True)
class Pace:
    """How a sequence of frames is played.

    Attributes:
        fps: Frames a second, where nothing stands still.
        hold: Seconds that an image stands still: one number for all images, or one for each image of the sequence (its
            first frame, its last, and the images on the way).
        bounce: Play it back to the start again.
        easing: "linear": at one speed from image to image; "smooth": each time from rest to rest.
    """

    fps: float = 12.0
    hold: float | Sequence[float] = 0.5
    bounce: bool = False
    easing: Easing = "linear"

    def check(self, suffix: str = ".mp4") -> Pace:
        """Returns the pace when a movie of that kind can keep it.

        Raises:
            UsageError: A value is of another type or out of range.
        """
        kind = suffix if suffix in FASTEST else ""
        checks.number(f"fps for {kind}" if kind else "fps", self.fps, low=0.1, high=FASTEST.get(kind, 240.0))
        for seconds in _several(self.hold):
            checks.number("hold", seconds, low=0.0, high=LONGEST_HOLD)
        checks.flag("bounce", self.bounce)
        checks.choice("easing", self.easing, EASINGS)
        return self

    def played(
        self, count: int, *, loops: bool, stops: Sequence[int] | None = None, closed: bool = False
    ) -> list[Shown]:
        """(frame, seconds) in the order shown.

        Args:
            count: How many frames there are.
            loops: After the last one shown the first follows by itself; else a bounce ends where it began.
            stops: Which frames are images that stand still, ascending; None: the first and the last.
            closed: The last frame shows what the first one shows: it is left out, so that the first one, which follows
                it, is not there twice.

        Raises:
            UsageError: There are neither one hold for all nor one for each image.
        """
        stops = sorted({0, count - 1} if stops is None else {*stops})
        seconds = _eased(count, stops, 1.0 / self.fps, self.easing)
        for stop, hold in zip(stops, self._holds(len(stops), closed), strict=True):
            seconds[stop] = max(hold, seconds[stop])
        order = list(range(count))
        if self.bounce:
            order += order[-2:0:-1] if loops else order[-2::-1]
        elif closed and count > 1:
            order.pop()
        return [(k, seconds[k]) for k in order]

    def _holds(self, images: int, closed: bool) -> list[float]:
        given = _several(self.hold)
        if not isinstance(checks.plain(self.hold), list | tuple):
            return given * images
        if closed and len(given) == images - 1:  # the last image is the first one again
            given = [*given, given[0]]
        if len(given) != images:
            raise UsageError(f"hold must be one time for all or one for each of {images} images, got {len(given)}")
        return given


def _several(value: Any) -> list[Any]:
    value = checks.plain(value)
    return list(value) if isinstance(value, list | tuple) else [value]


def _eased(count: int, stops: Sequence[int], step: float, easing: Easing) -> list[float]:
    """How long each frame is shown, seconds; in all as long from stop to stop as at one speed.

    A frame stands for the way from half a step before it to half a step behind. At `smooth` the way done after a share
    u of the time is 3 u^2 - 2 u^3, and a frame lasts as long as that takes from its one end to its other.
    """
    seconds = [step] * count
    if easing == "linear":
        return seconds
    for first, last in itertools.pairwise(stops):
        steps = last - first
        ends = [_time_at((k + 0.5) / steps) for k in range(steps)]
        for k in range(1, steps):
            seconds[first + k] = (ends[k] - ends[k - 1]) * steps * step
        seconds[first] += (ends[0] * steps - 0.5) * step
        seconds[last] += ((1.0 - ends[-1]) * steps - 0.5) * step
    return seconds


def _time_at(way: float) -> float:
    """The share of the time after which a share of the way is done: the inverse of 3 u^2 - 2 u^3."""
    return 0.5 - math.sin(math.asin(1.0 - 2.0 * way) / 3.0)
