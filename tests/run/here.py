"""A crew without processes: what workers do is done in this process, for tests of what is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Self

from sfumato.run.crew import Begin, Event, Gone, Ready, Result, Work


class Here:
    """Workers of this process; `dies` says of a job whether its worker dies on it, before or after doing it."""

    def __init__(self, begin: Begin, dies: Callable[[Any], str] = lambda _: "") -> None:
        self._begin, self._dies = begin, dies
        self._work: dict[int, Work] = {}
        self._events: deque[Event] = deque()
        self.jobs: list[Any] = []
        self.places: int | None = None

    def start(self, worker: int) -> None:
        facts, self._work[worker] = self._begin()
        self._events.append(Ready(worker, facts))

    def send(self, worker: int, job: Any) -> None:
        self.jobs.append(job)
        when = self._dies(job)
        if when == "before":
            self._events.append(Gone(worker, "killed by signal 9"))
            return
        value = self._work[worker](job)
        self._events.append(Gone(worker, "killed by signal 9") if when == "after" else Result(worker, value))

    def wait(self, seconds: float) -> list[Event]:
        return [self._events.popleft()] if self._events else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
