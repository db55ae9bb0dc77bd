"""Ctrl-C, a request to end (SIGTERM) and a closed terminal (SIGHUP) stop a command at any moment, without a traceback.

While a command runs they raise, so that every block is left in order. Before and after there is nothing to tidy up, and
they end the process where it is: an exception inside a half-done import would come out as a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SECONDS_TO_TIDY_UP = 3.0


class Stopped(KeyboardInterrupt):
    """The command was stopped; whatever handles Ctrl-C handles it."""


@dataclass
class Stop:
    """Whether, when and by which signal a command was stopped."""

    number: int | None = None
    since: float = 0.0

    @property
    def code(self) -> int:
        """The exit code that shells know it by: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.number or signal.SIGINT)


def leave_at_once() -> None:
    """From now on a signal ends the process where it is, with one line."""
    _handle(_leave)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside the block a signal raises `Stopped`; those that follow while all is tidied up change nothing."""
    stop = Stop()

    def heed(number: int, frame: Any) -> None:
        if stop.number is None:
            stop.number, stop.since = number, time.monotonic()
            raise Stopped
        if time.monotonic() - stop.since > _SECONDS_TO_TIDY_UP:
            _leave(number, frame)

    before = _handle(heed)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Asked:
    """By which signal a command was asked to finish; None: it was not."""

    number: int | None = None

    def is_so(self) -> bool:
        """Whether it was asked."""
        return self.number is not None


@contextmanager
def finishing() -> Iterator[Asked]:
    """Inside the block the first signal only asks to finish what runs; the next one is heeded as before the block."""
    asked = Asked()

    def heed(number: int, frame: Any) -> None:
        if asked.number is not None:
            handler = before.get(number)
            if callable(handler):
                handler(number, frame)
            return
        asked.number = number
        with suppress(OSError):
            os.write(2, b"finishing what runs; once more to leave at once\n")

    before = _handle(heed)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Sets a handler of all signals that are not ignored (as nohup has it); returns those that were there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in heeded:
        signal.signal(number, handler)
    return heeded


def _leave(number: int, frame: Any) -> None:
    with suppress(OSError, ValueError, RuntimeError):  # a closed stream, or one that is just being written
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, b"error: stopped\n")
    os._exit(128 + number)
