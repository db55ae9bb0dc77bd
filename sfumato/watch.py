"""Watching a run from outside: progress, previews, cancellation. Never changes a number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from sfumato.errors import Cancelled

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: What is being done, e.g. "inverting", "editing".
        done, total: Steps.
    """

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Watch:
    """How a caller watches a run.

    Attributes:
        progress: Called before the first and after every step.
        cancelled: Asked before every step; True stops the run with `Cancelled`.
        preview: Called with the step's index and the current guess of the clean latents of all branches,
            (branch, image, channels, height, width), every `preview_every` steps.
        preview_every: Steps between previews.
        stage: Name of the present stage.
    """

    progress: Callable[[Progress], None] | None = None
    cancelled: Callable[[], bool] | None = None
    preview: Callable[[int, Tensor], None] | None = None
    preview_every: int = 5
    stage: str = "sampling"

    def during(self, stage: str) -> Watch:
        """The same watch in another stage."""
        return replace(self, stage=stage)

    def over(self, steps: Sequence[Item]) -> Iterator[Item]:
        """Yields the steps, reporting and asking around each.

        Raises:
            Cancelled: The caller asked to stop.
        """
        self._report(0, len(steps))
        for done, step in enumerate(steps):
            self.check(f", after {done} of {len(steps)} steps")
            yield step
            self._report(done + 1, len(steps))

    def check(self, where: str = "") -> None:
        """Raises `Cancelled` when the caller asked to stop; `where` says how far the run had come."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled(f"stopped while {self.stage}{where}")

    def show(self, index: int, x0_pred: Tensor) -> None:
        """Passes on a preview when one is due."""
        if self.preview is not None and index % self.preview_every == 0:
            self.preview(index, x0_pred)

    def _report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(Progress(self.stage, done, total))


@dataclass
class _Bars:
    """One rich bar a stage, made when the stage first reports."""

    bars: Any
    tasks: dict[str, Any] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.tasks or progress.done == 0:
            self.tasks[progress.stage] = self.bars.add_task(progress.stage, total=progress.total)
        self.bars.update(self.tasks[progress.stage], completed=progress.done, total=progress.total)


@contextmanager
def progress_bar(enabled: bool | None = None, *, watch: Watch | None = None) -> Iterator[Watch]:
    """A watch that draws a rich progress bar on stderr.

    Args:
        enabled: Draw it; None: when stderr is a terminal.
        watch: Extend this watch (one that already reports progress is left as it is).
    """
    watch = watch or Watch()
    if watch.progress is not None or not (sys.stderr.isatty() if enabled is None else enabled):
        yield watch
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield replace(watch, progress=_Bars(bars))
