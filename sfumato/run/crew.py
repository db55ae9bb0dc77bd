"""Worker processes: each prepares itself once, then does one job at a time and says what came of it.

A crew does not know what the jobs are, and replaces no worker: it says which are gone (`sfumato.run.jobs` decides what
to do then). `Processes` are those of this machine; `ThisProcess` does the jobs where it is. A process ends when its
parent is gone, so that a killed run leaves nothing behind; it ignores Ctrl-C and SIGTERM, which the parent handles.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from sfumato.errors import SfumatoError

if TYPE_CHECKING:
    from collections.abc import Iterator

Work = Callable[[Any], Any]
Begin = Callable[[], tuple[Any, Work]]
"""Prepares a worker, in the worker: gives what it has to tell (a model's revision) and the function that does a job."""

SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True)
class Ready:
    """A worker is prepared; `facts` are what it tells of itself."""

    worker: int
    facts: Any


@dataclass(frozen=True)
class Result:
    """A worker has done its job."""

    worker: int
    value: Any


@dataclass(frozen=True)
class Failed:
    """Preparing, or a job, raised: neither catches what it can handle, so the run has to end."""

    worker: int
    error: SfumatoError


@dataclass(frozen=True)
class Gone:
    """A worker has died; `why` says how."""

    worker: int
    why: str


Event = Ready | Result | Failed | Gone


class Crew(Protocol):
    """Workers by number. To be used in a `with`, which ends them all.

    Attributes:
        places: Workers that there is room for; None: as many as are asked for.
    """

    places: int | None

    def start(self, worker: int) -> None:
        """Starts a worker, or another in the place of one that has gone."""

    def send(self, worker: int, job: Any) -> None:
        """Gives a job to a worker that is ready and has none."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """What has happened; after `seconds` perhaps nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass
class _Process:
    process: Any
    pipe: Connection


class Processes:
    """Workers as processes of this machine, each with a pipe of its own."""

    def __init__(self, begin: Begin, environments: Sequence[Mapping[str, str]] = ()) -> None:
        """Starts nothing yet.

        Args:
            begin: Can be pickled.
            environments: Variables of each worker in turn, such as the GPU that it sees; empty: those of this process.
        """
        self._begin, self._environments = begin, environments
        self.places: int | None = None
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, _Process] = {}

    def start(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_main, args=(self._begin, theirs))
        with _environment(self._environments[worker % len(self._environments)] if self._environments else {}):
            process.start()
        theirs.close()  # so that the pipe ends with the worker
        self._processes[worker] = _Process(process, ours)

    def send(self, worker: int, job: Any) -> None:
        with suppress(OSError):  # it has died, which `wait` will say
            self._processes[worker].pipe.send(job)

    def wait(self, seconds: float) -> list[Event]:
        pipes = {one.pipe: worker for worker, one in self._processes.items()}
        return [self._event(pipes[pipe]) for pipe in wait(list(pipes), seconds) if isinstance(pipe, Connection)]

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes."""
        return [one.process.pid for one in self._processes.values()]

    def _event(self, worker: int) -> Event:
        one = self._processes[worker]
        try:
            event, value = one.pipe.recv()
        except (EOFError, OSError):
            one.process.join(SECONDS_TO_LEAVE)
            _end(self._processes.pop(worker))
            return Gone(worker, _how(one.process.exitcode))
        found: Event = event(worker, value)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._processes.values():
            _end(one)
        self._processes.clear()


class ThisProcess:
    """Workers in this process, for callers that have loaded the model: a job is done when it is sent."""

    def __init__(self, begin: Begin) -> None:
        """Starts nothing yet."""
        self._begin = begin
        self.places: int | None = 1
        self._work: dict[int, Work] = {}
        self._events: deque[Event] = deque()

    def start(self, worker: int) -> None:
        facts, self._work[worker] = self._begin()
        self._events.append(Ready(worker, facts))

    def send(self, worker: int, job: Any) -> None:
        self._events.append(Result(worker, self._work[worker](job)))

    def wait(self, seconds: float) -> list[Event]:
        return [self._events.popleft()] if self._events else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _end(one: _Process) -> None:
    one.process.kill()  # what it writes is written whole or not at all
    one.process.join()
    one.pipe.close()


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        memory = ", perhaps for want of memory" if exitcode == -signal.SIGKILL else ""
        return f"killed by signal {-exitcode}{memory}"
    return f"ended with exit code {exitcode}"


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables, for the length of the block: a process that is started takes them along."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _main(begin: Begin, pipe: Connection) -> None:
    """What a worker does."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is leaving
        try:
            facts, work = begin()
            pipe.send((Ready, facts))
            while True:
                pipe.send((Result, work(pipe.recv())))
        except (EOFError, BrokenPipeError):
            raise
        except SfumatoError as error:
            pipe.send((Failed, error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent says it in words
            pipe.send((Failed, SfumatoError(f"{type(error).__name__}: {error}")))


def _leave_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
