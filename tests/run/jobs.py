"""Workers of arithmetic, light to start, for tests of what serves all runs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import UsageError
from sfumato.run.crew import Work


@dataclass(frozen=True)
class Square:
    """Squares numbers and logs who did what; `fatal` numbers kill their worker, `once` those the first time only."""

    log: Path
    fatal: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    refuses: tuple[int, ...] = ()
    pause: float = 0.0
    dies_at_once: bool = False

    def __call__(self) -> tuple[Any, Work]:
        if self.dies_at_once:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pid": os.getpid(), "gpu": os.environ.get("GPU")}, self.square

    def square(self, number: int) -> int:
        before = self.log.read_text().split() if self.log.exists() else []
        with self.log.open("a") as file:
            file.write(f"{number}:{os.getpid()}\n")
        if number in self.fatal or (number in self.once and not any(line.startswith(f"{number}:") for line in before)):
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.refuses:
            raise UsageError(f"{number} is refused")
        time.sleep(self.pause)
        return number * number
