"""Jobs given to workers: a worker that dies is replaced, its job done again, and a job that kills three is given up.

Jobs of a group go to one worker, one after the other, so that they can share what it keeps in memory; who has nothing
left to do takes over jobs of the largest group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sfumato.errors import SfumatoError
from sfumato.run.crew import Crew, Failed, Gone, Ready, Result

Job = TypeVar("Job")

MOST_DEATHS = 3
"""Workers that may die on one job, and workers in succession that may die before they are ready."""
SECONDS_BETWEEN_TICKS = 0.5


@dataclass(frozen=True)
class Died:
    """What came of a job on which several workers died; `why` says how the last one did."""

    why: str

    def __str__(self) -> str:
        return f"{MOST_DEATHS} workers died on it ({self.why})"


@dataclass
class Standing:
    """How a run stands: workers that are there, and how many were replaced."""

    workers: int = 0
    restarts: int = 0


@dataclass
class _Waiting(Generic[Job]):
    """A job with the number of workers that died on it."""

    job: Job
    deaths: int = 0


class _Queue(Generic[Job]):
    """Groups of jobs that no worker has begun, and the one that each worker is at."""

    def __init__(self, groups: Sequence[Sequence[Job]]) -> None:
        self._groups = deque(deque(_Waiting(job) for job in group) for group in groups if group)
        self._of: dict[int, deque[_Waiting[Job]]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups) or any(self._of.values())

    def __len__(self) -> int:
        return sum(map(len, self._groups)) + sum(map(len, self._of.values()))

    def take(self, worker: int) -> _Waiting[Job] | None:
        """The next job for a worker: of its own group, of a new one, or the last one of the largest."""
        if not self._of.get(worker) and self._groups:
            self._of[worker] = self._groups.popleft()
        if own := self._of.get(worker):
            return own.popleft()
        largest = max(self._of.values(), key=len, default=None)
        return largest.pop() if largest else None

    def again(self, one: _Waiting[Job]) -> None:
        """Puts a job back, to be taken next by a worker that has finished its group."""
        self._groups.appendleft(deque([one]))

    def leave(self, worker: int) -> None:
        """Puts back what the worker's group still holds."""
        if group := self._of.pop(worker, None):
            self._groups.appendleft(group)


def run_jobs(
    crew: Crew,
    groups: Sequence[Sequence[Job]],
    *,
    workers: int,
    ready: Callable[[object], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
    tick: Callable[[Standing], None] = lambda _: None,
) -> Iterator[tuple[Job, Any]]:
    """Has all jobs done, and yields each with what came of it, in the order in which they are done.

    Args:
        crew: Inside its `with`.
        groups: Jobs, those that share something in one group.
        workers: At most; no more than the crew has places for.
        ready: Called with the facts of every worker that is ready; may raise.
        stopping: Asked all the time: once it says True, no job is begun, and the generator ends when those that run are
            done.
        tick: Called at least once a second, with how the run stands.

    Yields:
        The job, and the result or a `Died`.

    Raises:
        SfumatoError: Preparing a worker or a job raised, or workers die before they are ready.
    """
    queue, standing = _Queue(groups), Standing()
    count = min(workers, len(queue), crew.places or workers)
    free: set[int] = set()
    busy: dict[int, _Waiting[Job]] = {}
    stillborn = 0
    for worker in range(count):
        crew.start(worker)
    standing.workers = count
    while True:
        if not stopping():
            for worker in sorted(free):
                if (one := queue.take(worker)) is None:
                    break
                free.remove(worker)
                busy[worker] = one
                crew.send(worker, one.job)
        if not busy and (stopping() or not queue):
            return
        for event in crew.wait(SECONDS_BETWEEN_TICKS):
            match event:
                case Ready(worker, facts):
                    ready(facts)
                    free.add(worker)
                    stillborn = 0
                case Result(worker, value):
                    free.add(worker)
                    yield busy.pop(worker).job, value
                case Failed(_, error):
                    raise error
                case Gone(worker, why):
                    stillborn += worker not in free and worker not in busy
                    if stillborn >= MOST_DEATHS:
                        raise SfumatoError(
                            f"{stillborn} workers in succession {why} before they were ready: run the same command"
                            " again with fewer workers, or on a machine with more memory"
                        )
                    free.discard(worker)
                    queue.leave(worker)
                    died = busy.pop(worker, None)
                    if died is not None and died.deaths + 1 < MOST_DEATHS:
                        queue.again(_Waiting(died.job, died.deaths + 1))
                    if stopping() or not queue:
                        standing.workers -= 1
                    else:
                        crew.start(worker)
                        standing.restarts += 1
                    if died is not None and died.deaths + 1 >= MOST_DEATHS:
                        yield died.job, Died(why)
        tick(standing)
