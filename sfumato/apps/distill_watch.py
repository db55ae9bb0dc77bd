"""How a distillation stands on the terminal: a bar for each stage, with the losses beside that of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sfumato.apps.console import say, stderr

if TYPE_CHECKING:
    from sfumato.distillation.training import Standing
    from sfumato.watch import Progress, Watch

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress() -> Iterator[tuple[Watch, Callable[[Standing], None]]]:
    """A watch, and what is called after each step of training: bars on a terminal, elsewhere a line now and then."""
    from sfumato.watch import Watch

    console = stderr()
    if not console.is_terminal:
        said = time.monotonic() - SECONDS_BETWEEN_LINES

        def tell(standing: Standing) -> None:
            nonlocal said
            if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                say(f"training, step {standing.step} of {standing.steps}: {losses(standing)}")
                said = time.monotonic()

        yield Watch(progress=lambda _: None), tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )  # fmt: skip
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(state: Progress) -> None:
            if state.stage not in tasks:
                tasks[state.stage] = bars.add_task(state.stage, total=state.total, losses="")
            bars.update(tasks[state.stage], completed=state.done, total=state.total)

        def beside(standing: Standing) -> None:
            bars.update(tasks["training"], completed=standing.step, total=standing.steps, losses=losses(standing))

        yield Watch(progress=show), beside


def losses(standing: Standing) -> str:
    """The losses in a few words."""
    parts = [f"{name} {value:.3f}" for name, value in standing.losses.items()]
    if standing.held_out is not None:
        parts.append(f"held out {standing.held_out:.3f}")
    return ", ".join(parts)
