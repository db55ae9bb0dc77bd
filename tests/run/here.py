"""A crew without processes whose workers may die, for tests of what is done then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sfumato.run.crew import Begin, Gone, ThisProcess


class Here(ThisProcess):
    """Workers of this process; `dies` says of a job whether its worker dies on it, before or after doing it."""

    def __init__(self, begin: Begin, dies: Callable[[Any], str] = lambda _: "") -> None:
        super().__init__(begin)
        self._dies = dies
        self.jobs: list[Any] = []
        self.places: int | None = None

    def send(self, worker: int, job: Any) -> None:
        self.jobs.append(job)
        when = self._dies(job)
        if when != "before":
            super().send(worker, job)
        if when:
            if when == "after":
                self._events.pop()
            self._events.append(Gone(worker, "killed by signal 9"))
