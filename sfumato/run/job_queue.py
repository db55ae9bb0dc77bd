"""A queue of runs that several clients ask for at once: one run at a time on each model.

No HTTP is in here. A client submits work and gets a `Job`, which says its place, its progress and what came of it. A
run is stopped at its next step where it is cancelled, takes too long, or no client has asked after it for a while.
"""

from __future__ import annotations

import io
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sfumato.errors import Cancelled, SfumatoError, UsageError
from sfumato.images import to_images
from sfumato.models.base import Model
from sfumato.run.memory_guard import Gauge, MemoryGuard
from sfumato.watch import Progress, Watch

State = Literal["waiting", "running", "done", "failed", "cancelled"]

PREVIEW_SIDE = 256
SECONDS_BETWEEN_PREVIEWS = 0.25
PREVIEW_SHARE = 40
"""Decoding a preview may take one part in so many of the time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What the queue takes on.

    Attributes:
        waiting: Jobs that wait, for each model.
        per_client: Jobs of one client that wait or run.
        kept, kept_bytes: Finished jobs whose results are kept, and their size; the oldest go first.
        seconds: That a run may take.
        patience: Seconds without a question after which a job is given up.
    """

    waiting: int = 20
    per_client: int = 4
    kept: int = 64
    kept_bytes: int = 512 * 2**20
    seconds: float = 3600.0
    patience: float = 30.0


class Busy(SfumatoError):
    """The queue is full or closed; `retry_after` says in how many seconds to try again."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class TooMany(Busy):
    """This client has enough in the queue."""


class Outcome(Protocol):
    """What came of a job."""

    @property
    def size(self) -> int:
        """Bytes that it holds."""


Work = Callable[[Model, Watch], Outcome]
"""Runs on a model, and tells the watch how it goes."""


@dataclass
class Job:
    """One run. `id` is unguessable: who knows it may see the result.

    Attributes:
        model, client: Name of the model, and who asked.
        state: Where it stands.
        stage, done, total: Progress of a run, see `sfumato.watch.Progress`.
        preview, previews: The last preview, a JPEG, and how many there were.
        outcome, error: Of a job that is done, and why one failed.
        version: Grows with each change of any of these.
    """

    model: str
    client: str
    work: Work = field(repr=False)
    pixels: int
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    preview: bytes | None = field(default=None, repr=False)
    previews: int = 0
    outcome: Any = field(default=None, repr=False)
    error: str = ""
    version: int = 0
    asked_at: float = 0.0
    stop: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")


class JobQueue:
    """Jobs of several clients on several models, a worker thread for each model."""

    def __init__(self, models: Mapping[str, Model], bounds: Bounds | None = None) -> None:
        """Starts a worker for each model; `close` ends them.

        Args:
            models: By the names that jobs give. Those on one device take turns.
            bounds: None: the usual ones.
        """
        self._models, self._bounds = dict(models), bounds or Bounds()
        self._lines: dict[str, deque[Job]] = {name: deque() for name in models}
        self._running: dict[str, Job] = {}
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._seconds = 1.0  # of a run, a running mean
        self._changed = threading.Condition()
        self._closed = False
        devices = {str(model.device): threading.Lock() for model in self._models.values()}
        self._threads = [
            threading.Thread(
                target=self._serve, args=(name, devices[str(model.device)]), name=f"sfumato {name}", daemon=True
            )
            for name, model in self._models.items()
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work, *, model: str, client: str, pixels: int) -> Job:
        """Puts work at the end of a model's queue.

        Args:
            work: What to run.
            model: Name of the model.
            client: Who asks.
            pixels: Of all images that the run holds at once.

        Raises:
            UsageError: There is no such model.
            Busy: The queue is full, or the client has enough in it, or the queue is closed.
        """
        if model not in self._lines:
            raise UsageError(f"there is no model {model!r} here: there are {', '.join(self._lines)}")
        job = Job(model, client, work, pixels, asked_at=time.monotonic())
        with self._changed:
            self._sweep()
            line, own = self._lines[model], sum(j.client == client for j in self._jobs.values() if not j.over)
            if self._closed:
                raise Busy("the server is about to stop: try again in a minute", 60)
            if len(line) >= self._bounds.waiting:
                raise Busy(f"{len(line)} runs are waiting already: try again soon", self._until_place(line))
            if own >= self._bounds.per_client:
                raise TooMany(f"{own} of your runs wait or run: let one finish, or cancel it", self._until_place(line))
            line.append(job)
            self._jobs[job.id] = job
            self._changed.notify_all()
        return job

    def get(self, job_id: str) -> Job | None:
        """The job of that id, which counts as asked after; None where there is none, or where it was dropped."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None:
                job.asked_at = time.monotonic()
            return job

    def place(self, job: Job) -> int:
        """How many jobs come before it, the one that runs among them; 0 where it runs or is over."""
        with self._changed:
            line = self._lines[job.model]
            return line.index(job) + (job.model in self._running) if job in line else 0

    def cancel(self, job_id: str) -> bool:
        """Takes a waiting job out of the queue, or stops a running one at its next step; False: it was over."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.over:
                return False
            job.stop = "cancelled"
            if job in self._lines[job.model]:
                self._lines[job.model].remove(job)
                self._end(job, "cancelled")
            return True

    def close(self) -> None:
        """Cancels all jobs and waits for the workers to end."""
        with self._changed:
            self._closed = True
            ids = [job.id for job in self._jobs.values() if not job.over]
            self._changed.notify_all()
        for job_id in ids:
            self.cancel(job_id)
        for thread in self._threads:
            thread.join()

    @property
    def closed(self) -> bool:
        """Whether it takes on no more."""
        return self._closed

    def _sweep(self) -> None:
        """Takes jobs out of the queues that no client asks after any more; called with the lock held."""
        for line in self._lines.values():
            for job in [job for job in line if self._stopped(job, time.monotonic())]:
                line.remove(job)
                self._end(job, "cancelled")

    def _until_place(self, line: deque[Job]) -> int:
        return max(1, min(600, math.ceil(self._seconds * max(1, len(line)) / 2)))

    def _serve(self, name: str, device: threading.Lock) -> None:
        """The life of a worker."""
        guard = MemoryGuard(Gauge(self._models[name].device))
        while (job := self._next(name)) is not None:
            with device:
                self._run(job, guard)

    def _next(self, name: str) -> Job | None:
        """Waits for a job that somebody still asks after; None: the queue is closed."""
        with self._changed:
            while True:
                if self._closed:
                    return None
                if not self._lines[name]:
                    self._changed.wait()
                    continue
                job = self._lines[name].popleft()
                if self._stopped(job, time.monotonic()):
                    self._end(job, "cancelled")
                    continue
                self._running[name] = job
                self._change(job, state="running")
                return job

    def _run(self, job: Job, guard: MemoryGuard) -> None:
        model, start = self._models[job.model], time.monotonic()
        watch = Watch(
            progress=lambda progress: self._report(job, progress),
            cancelled=lambda: self._stopped(job, start),
            preview=_Previews(model, lambda image: self._show(job, image)),
            preview_every=1,
        )
        state: State = "failed"
        try:
            job.outcome = guard.run(lambda: job.work(model, watch), job.pixels)
            state = "done"
        except Cancelled:
            state = "cancelled"
        except SfumatoError as error:
            job.error = str(error)
        except Exception:  # noqa: BLE001 - whatever it is, the worker goes on
            _log.exception("a run failed")
            job.error = "the run failed; the log of the server says why"
        with self._changed:
            del self._running[job.model]
            if state == "done":
                self._seconds += 0.3 * (time.monotonic() - start - self._seconds)
            self._end(job, state)

    def _stopped(self, job: Job, start: float) -> bool:
        """Whether a job is to be stopped, and says why."""
        now = time.monotonic()
        if now - start > self._bounds.seconds:
            job.stop = job.stop or f"stopped after {self._bounds.seconds:g} seconds, the most that a run may take here"
        if now - job.asked_at > self._bounds.patience:
            job.stop = job.stop or "given up, as no client asked after it"
        return bool(job.stop)

    def _report(self, job: Job, progress: Progress) -> None:
        with self._changed:
            self._change(job, stage=progress.stage, done=progress.done, total=progress.total)

    def _show(self, job: Job, image: bytes) -> None:
        with self._changed:
            self._change(job, preview=image, previews=job.previews + 1)

    def _end(self, job: Job, state: State) -> None:
        """Ends a job, and drops the oldest results beyond what is kept; called with the lock held."""
        job.work = _nothing
        error = job.stop if state == "cancelled" else job.error
        self._change(job, state=state, error=error, preview=None)
        self._jobs.move_to_end(job.id)
        over = [other for other in self._jobs.values() if other.over]
        size = sum(0 if other.outcome is None else other.outcome.size for other in over)
        while len(over) > self._bounds.kept or (size > self._bounds.kept_bytes and len(over) > 1):
            dropped = over.pop(0)
            size -= 0 if dropped.outcome is None else dropped.outcome.size
            del self._jobs[dropped.id]

    def _change(self, job: Job, **values: Any) -> None:
        """Changes a job; called with the lock held."""
        for name, value in values.items():
            setattr(job, name, value)
        job.version += 1
        self._changed.notify_all()


def _nothing(model: Model, watch: Watch) -> Outcome:
    """Stands in the place of work that is done, so that its images can go."""
    raise AssertionError("a job is run once")


class _Previews:
    """Decodes guesses of the clean latents into small images, not too often."""

    def __init__(self, model: Model, show: Callable[[bytes], None]) -> None:
        self._model, self._show = model, show
        self._due = 0.0

    def __call__(self, index: int, x0_pred: Tensor) -> None:
        start = time.monotonic()
        if index == 0 or start < self._due:
            return
        with torch.no_grad():
            (image,) = to_images(self._model.decode_latents(x0_pred[-1, :1]))
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90, subsampling=0)
        self._show(buffer.getvalue())
        now = time.monotonic()
        self._due = now + max(SECONDS_BETWEEN_PREVIEWS, PREVIEW_SHARE * (now - start))
