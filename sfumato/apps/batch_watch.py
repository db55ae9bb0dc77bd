"""How a batch stands: on the terminal while it runs, from another one, and before it is begun."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato import checks
from sfumato.apps.console import print_json, say, stderr, stdout, table
from sfumato.errors import UsageError
from sfumato.files import at_home, locked, write_whole
from sfumato.json_input import MAX_BYTES, JsonError, check_fields, read_json

if TYPE_CHECKING:
    from sfumato.api.batch_estimate import Estimate
    from sfumato.api.batch_progress import Progress

PROGRESS = "progress.json"
SECONDS_BETWEEN_FILES = 5.0
SECONDS_BETWEEN_LINES = 30.0

_count = partial(checks.whole, low=0)
_number = partial(checks.number, low=0.0, high=1e12)
_ENTRIES: dict[str, checks.Check] = {
    **dict.fromkeys(("items", "done", "failed", "left", "before", "adopted", "same", "workers", "restarts"), _count),
    **dict.fromkeys(("per_minute", "seconds", "at"), _number),
    "seconds_left": checks.optional(_number),
}


@contextmanager
def progress(out: Path) -> Iterator[Callable[[Progress], None]]:
    """Shows how a batch stands, a line a second on a terminal and one each half minute elsewhere, and in a file."""
    console, latest = stderr(), dict[str, Any]()
    written = said = time.monotonic()

    def write() -> None:
        if latest and out.is_dir():
            with suppress(UsageError):  # a full disk, which the rows will tell of
                write_whole(out / PROGRESS, json.dumps({**latest, "at": time.time()}) + "\n")

    with console.status("") if console.is_terminal else _nothing() as status:

        def tick(state: Progress) -> None:
            nonlocal written, said
            latest.update(state.to_json())
            now = time.monotonic()
            if now - written >= SECONDS_BETWEEN_FILES:
                write()
                written = now
            if status is not None:
                status.update(_line(latest))
            elif now - said >= SECONDS_BETWEEN_LINES:
                say(_line(latest))
                said = now

        try:
            yield tick
        finally:
            write()


def show_status(folder: Path, as_json: bool) -> None:
    """Says how the batch in a folder stands.

    Raises:
        UsageError: There is none.
    """
    from sfumato.run.rows import LOCK

    folder = at_home(folder)
    if not (folder / "run.json").is_file():
        raise UsageError(f"{folder} holds no batch (run.json is missing): name the --out of one")
    values = _read(folder / PROGRESS)
    try:
        with locked(folder / LOCK):
            runs = False
    except OSError:
        runs = True
    if as_json:
        print_json({"command": "batch", "out": str(folder), "runs": runs, **(values or {})})
        return
    how = "runs" if runs else "does not run"
    if values is None:
        table([(str(folder), f"{how}; it has not said yet how it stands")], to=stdout())
        return
    ago = max(0.0, time.time() - values["at"])
    table([(str(folder), f"{how}; {ago:.0f} s ago: {_line(values)}")], to=stdout())


def show_estimate(found: Estimate, as_json: bool) -> None:
    """Says what a batch would do."""
    if as_json:
        print_json({"command": "batch", **found.to_json()})
        return
    lines = [
        ("items", f"{found.items}, of them {found.done} done before, {found.broken} that cannot be made"),
        ("equal", f"{found.equal} are equal to others, and made once"),
        ("runs", f"{found.runs}, which share {found.inversions} inversions"),
    ]
    if found.seconds is not None:
        lines += [
            ("evaluations", f"about {found.evaluations:.0f}"),
            ("time", f"about {_duration(found.seconds)} with {found.workers} workers"),
            ("size", f"about {(found.bytes or 0) / 2**20:.1f} MB"),
        ]
    table(lines, to=stdout())
    for text in found.problems:
        say(text, "yellow", label="note")


def _line(values: dict[str, Any]) -> str:
    left = values["seconds_left"]
    rest = "" if left is None or not values["left"] else f", {_duration(left)} left"
    restarts = f", {values['restarts']} restarts" if values["restarts"] else ""
    return (
        f"{values['done']} of {values['items']} done, {values['failed']} failed, {values['left']} left,"
        f" {values['per_minute']:.1f} images a minute{rest}, {values['workers']} workers{restarts}"
    )


def _duration(seconds: float) -> str:
    minutes, hours = divmod(round(seconds), 60)[0], round(seconds) // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as opened:
            values = read_json(opened.read(MAX_BYTES + 1))
        return check_fields(values, _ENTRIES, what=f"{file}", remedy="wait a moment", error=UsageError)
    except (OSError, JsonError):
        return None


@contextmanager
def _nothing() -> Iterator[None]:
    yield
