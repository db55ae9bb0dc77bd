"""Where a batch stands, for people and programs that watch it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sfumato.run.jobs import Standing

SECONDS_OF_RATE = 300.0


@dataclass
class Progress:
    """Where a batch stands.

    Attributes:
        items: All that it is to make, equal ones and broken ones counted.
        done, failed: Of them, in all.
        before: Of `done` and `failed`, what earlier runs of the batch did.
        adopted, same: Of `done`, images found without a row, and copies of equal ones; of this run.
        standing: Of the workers.
        seconds: Since the run was begun.
    """

    items: int = 0
    done: int = 0
    failed: int = 0
    before: int = 0
    adopted: int = 0
    same: int = 0
    standing: Standing = field(default_factory=Standing)
    seconds: float = 0.0
    _finished: deque[tuple[float, int]] = field(default_factory=deque, repr=False)

    @property
    def left(self) -> int:
        """Items that are neither done nor failed."""
        return self.items - self.done - self.failed

    @property
    def per_minute(self) -> float:
        """Images a minute, over the last five."""
        if not self._finished or self.seconds <= 0:
            return 0.0
        span = min(self.seconds, SECONDS_OF_RATE)
        return 60.0 * sum(count for at, count in self._finished if at >= self.seconds - span) / span

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None where there is none yet."""
        return 60.0 * self.left / self.per_minute if self.per_minute else None

    def made(self, count: int) -> None:
        """Counts images that were made just now."""
        self._finished.append((self.seconds, count))
        while self._finished[0][0] < self.seconds - SECONDS_OF_RATE:
            self._finished.popleft()

    def to_json(self) -> dict[str, Any]:
        """For people and programs that watch."""
        left = self.seconds_left
        return {
            "items": self.items,
            "done": self.done,
            "failed": self.failed,
            "left": self.left,
            "before": self.before,
            "adopted": self.adopted,
            "same": self.same,
            "per_minute": round(self.per_minute, 2),
            "seconds": round(self.seconds, 1),
            "seconds_left": None if left is None else round(left),
            "workers": self.standing.workers,
            "restarts": self.standing.restarts,
        }
