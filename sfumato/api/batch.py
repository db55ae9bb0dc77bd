"""A batch: thousands of edits and morphs, each made exactly once, whatever dies on the way.

A worker writes an image whole or not at all, then says so; this process writes the row. An image without its row is
recognised by the key in its recipe and taken as it is. Which items are run together is found from the whole manifest,
not from what is left of it, so that a batch that goes on makes the images, byte for byte, that it would have made.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sfumato
from sfumato.api.batch_items import Item, Settings, items_of
from sfumato.api.batch_layout import check_settings, in_shard, named, runs_of
from sfumato.api.batch_progress import Progress
from sfumato.api.batch_rows import IMAGES, ROW, Known, adopted_row, error_row, same_row
from sfumato.api.batch_work import Begin, Task
from sfumato.api.manifest import Line
from sfumato.errors import ImageError, SfumatoError, UsageError
from sfumato.files import sweep, write_whole
from sfumato.images import read_recipe
from sfumato.run.crew import Crew, Processes
from sfumato.run.jobs import Died, Standing, run_jobs
from sfumato.run.rows import SETTINGS, Row, RowFile, each_row, read_settings, run_folder

FIXED = ("batch", "version")
"""Settings that the images and their names depend on."""
SOURCE = "source"
"""Before an item's name: its source image, in reports."""

Hire = Callable[[Begin], Crew]
"""Makes the crew of a batch."""


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        limit: Most items, the first ones; None: all.
        shard: (K, N): the K-th of N parts, items of one image in one part; None: all.
        workers: At once.
        threads: Of each worker; None: as many as torch takes.
        environments: Variables of each worker in turn; empty: those of this process.
        retry_errors: Try items again that ended in an error.
        stop_after: Begin nothing more after so many errors; None: go on.
        adopt: Take images without a row as they are; else they are made again, as only a row has figures.
    """

    limit: int | None = None
    shard: tuple[int, int] | None = None
    workers: int = 1
    threads: int | None = None
    environments: Sequence[Mapping[str, str]] = ()
    retry_errors: bool = False
    stop_after: int | None = None
    adopt: bool = True


def run_batch(
    lines: Sequence[Line],
    defaults: Mapping[str, Any],
    settings: Settings,
    out: Path,
    options: Options,
    *,
    hire: Hire | None = None,
    stopping: Callable[[], bool] = lambda: False,
    tick: Callable[[Progress], None] = lambda _: None,
) -> Batch:
    """Makes what has no row yet.

    Args:
        lines: Rows of the manifest.
        defaults: Arguments of every row that has none of its own.
        settings: What all items share.
        out: Folder of `images/`, `rows.jsonl` and `run.json`.
        options: How it is run.
        hire: Makes the crew; None: processes of this machine.
        stopping: Asked all the time; once it says True, what runs is finished, and no more is begun.
        tick: Called at least once a second with the progress.

    Raises:
        UsageError: `out` holds another batch, cannot be written, or another process has it.
        SfumatoError: The model cannot be loaded, an image cannot be written, or workers die before they are ready.
    """
    check_settings(settings)
    with run_folder(out, ROW.run):
        batch = Batch(lines, defaults, settings, out, options)
        begin = Begin(settings.model, out / IMAGES, options.threads)
        with batch.file:
            batch.work(lambda: hire(begin) if hire else Processes(begin, options.environments), stopping, tick)
        sweep(out / IMAGES)
    return batch


def laid_out(
    lines: Sequence[Line], defaults: Mapping[str, Any], settings: Settings, options: Options, taken: Mapping[str, str]
) -> list[Item]:
    """The items that a batch is to make, named; see `named` for `taken`."""
    items = named(items_of(lines, defaults, settings), settings, taken)
    return [item for item in items if in_shard(item, options.shard)][: options.limit]


def recorded_settings(settings: Settings, revision: str | None) -> Row:
    """What `run.json` holds of a batch."""
    shared = {"model": dict(settings.model), "name": settings.name, "movie": settings.movie}
    return {"batch": shared, "version": sfumato.__version__.rsplit(".", 1)[0], "revision": revision}


def run_id(items: Sequence[Item]) -> str:
    """Which items are run together, as a word."""
    return hashlib.sha256("".join(item.key for item in items).encode()).hexdigest()[:8]


class Batch:
    """The state of a batch while it runs.

    Attributes:
        file: Of its rows.
        progress: Where it stands.
        gone: How many rows are of items that the manifest does not have any more.
    """

    def __init__(
        self, lines: Sequence[Line], defaults: Mapping[str, Any], settings: Settings, out: Path, options: Options
    ) -> None:
        self._images, self._options = out / IMAGES, options
        begun = (out / SETTINGS).is_file()
        if not begun and self._images.is_dir() and any(self._images.iterdir()):
            raise UsageError(f"{self._images} holds files of no batch: choose another folder")
        self._settings = recorded_settings(settings, read_settings(out, ROW.run).get("revision") if begun else None)
        self.file = RowFile(out, ROW, self._settings, FIXED, keep=Known.of)
        self._images.mkdir(exist_ok=True)
        sweep(self._images)
        rows = {(row.name, row.key): row for row in self.file.rows}
        taken = {row.name.lower(): row.key for row in rows.values() if row.done}
        self._items = laid_out(lines, defaults, settings, options, taken)
        self._by_name = {item.name: item for item in self._items}
        self._known = {item.name: row for item in self._items if (row := rows.get((item.name, item.key))) is not None}
        self.gone = len(rows) - len(self._known)
        self._missing = {item.name for item in self._items if self._is_missing(item)}
        self._first: dict[str, Item] = {}
        self._equal: dict[str, list[Item]] = {}
        for item in self._items:
            if self._first.setdefault(item.key, item) is not item:
                self._equal.setdefault(item.key, []).append(item)
        before = [row for name, row in self._known.items() if name not in self._missing]
        done = sum(row.done for row in before)
        self.progress = Progress(len(self._items), done, len(before) - done, before=len(before))
        self._errors, self._start = 0, time.monotonic()

    @property
    def settings(self) -> Row:
        """As `run.json` has them."""
        return dict(self._settings)

    def report_rows(self) -> list[Row]:
        """The latest row of each item, in the words of benchmarks' reports; see `find` for the images."""
        latest = {row["item"]: row for row in each_row(self.file.folder, ROW) if row["item"] in self._by_name}
        found = []
        for name, row in latest.items():
            done = row["status"] == "done"
            figures = {**row.get("figures", {}), **({"took": row["took"]} if "took" in row else {})}
            shown = {"source": f"{SOURCE}/{name}", "result": row["image"]} if done else {}
            found.append(
                {
                    "case": name,
                    "kind": row["command"],
                    "configuration": row.get("method", row["command"]),
                    "status": row["status"],
                    "error": row.get("error", ""),
                    "title": row.get("target", name),
                    "figures": figures,
                    "pictures": shown,
                    "notes": row.get("notes", []),
                }
            )
        return found

    def find(self, name: str) -> Path:
        """Where an image of `report_rows` lies: the result, or the source of its item.

        Raises:
            ImageError: It has no source.
        """
        if not name.startswith(f"{SOURCE}/"):
            return self.file.folder / name  # which its check keeps inside
        item = self._by_name[name.removeprefix(f"{SOURCE}/")]
        image = item.arguments.get("image") or next(iter(item.arguments.get("images", ())), None)
        if image is None:
            raise ImageError(f"{item.name} has no source image")
        return Path(image)

    def _is_missing(self, item: Item) -> bool:
        row = self._known.get(item.name)
        if row is None or not row.done:
            return row is None or self._options.retry_errors
        return not (self._images / item.name).exists()

    def work(self, hire: Callable[[], Crew], stopping: Callable[[], bool], tick: Callable[[Progress], None]) -> None:
        """Does what there is to do; workers are hired only if there is something for them."""
        for item in self._first.values():
            if item.error and item.name in self._missing:
                self._add(item, error_row(item, item.error))
        self._adopt()
        for item in self._first.values():
            self._copy(item)
        tick(self.progress)
        if not (groups := self._groups()):
            return

        def enough() -> bool:
            most = self._options.stop_after
            return stopping() or (most is not None and self._errors >= most)

        def watch(standing: Standing) -> None:
            self.progress.standing, self.progress.seconds = standing, time.monotonic() - self._start
            tick(self.progress)

        workers = self._options.workers
        with hire() as crew:
            for task, came in run_jobs(crew, groups, workers=workers, ready=self._check, stopping=enough, tick=watch):
                self._done(task, came)

    def _done(self, task: Task, came: Any) -> None:
        """Writes the rows of a run, and copies its images for equal items."""
        items = {item.name: item for item in task.items}
        rows = came
        if isinstance(came, Died):
            rows = [error_row(item, str(came), task.run) for item in task.items if item.name in task.missing]
        self.progress.seconds = time.monotonic() - self._start
        self.progress.made(sum(row["status"] == "done" for row in rows))
        for row in rows:
            self._add(items[row["item"]], row)
            self._copy(items[row["item"]])

    def _add(self, item: Item, row: Row) -> None:
        try:
            self.file.add(row)
        except UsageError as error:  # nothing that the user gave is wrong
            raise SfumatoError(str(error)) from error
        self._known[item.name] = self.file.rows[-1]
        self._missing.discard(item.name)
        done = row["status"] == "done"
        self.progress.done += done
        self.progress.failed += not done
        self._errors += not done

    def _copy(self, item: Item) -> None:
        """Gives items that are equal to one whose image is there, or which failed, what it has."""
        made = self._known.get(item.name)
        if made is None or item.name in self._missing:
            return
        for other in self._equal.get(item.key, ()):
            if other.name in self._missing:
                if made.done:
                    with suppress(FileNotFoundError):  # somebody removed it just now: it is made again next time
                        write_whole(self._images / other.name, (self._images / item.name).read_bytes(), SfumatoError)
                self._add(other, same_row(other, made))
                self.progress.same += 1

    def _adopt(self) -> None:
        """Takes images as they are that were made before their row could be written."""
        revision = self._settings["revision"]
        for item in self._first.values():
            path = self._images / item.name
            if not self._options.adopt or revision is None or item.error:
                continue
            if item.name not in self._missing or not path.is_file():
                continue
            with suppress(SfumatoError):  # a damaged one is made again
                recipe = read_recipe(path)
                if (recipe.get("key"), recipe.get("revision")) == (item.key, revision):
                    self._add(item, adopted_row(item))
                    self.progress.adopted += 1

    def _groups(self) -> list[list[Task]]:
        """What is left to be run."""
        found = []
        for group in runs_of(item for item in self._first.values() if not item.error):
            tasks = [self._task(run) for run in group if any(item.name in self._missing for item in run)]
            if tasks:
                found.append(tasks)
        return found

    def _task(self, run: Sequence[Item]) -> Task:
        """A run with what is missing of it; it is run whole where it was begun so, to give the same bytes."""
        missing, whole = [item for item in run if item.name in self._missing], run_id(run)
        begun = [self._known[item.name].run for item in run if item.name not in self._missing]
        if all(other in (whole, "") for other in begun):
            return Task(run, frozenset(item.name for item in missing), whole)
        return Task(missing, frozenset(item.name for item in missing), run_id(missing))

    def _check(self, facts: Any) -> None:
        """Holds a worker's model to the one that the batch was begun with."""
        ours = self._settings["revision"]
        if ours is None:
            self._settings["revision"] = facts["revision"]
            self.file.write_settings(self._settings)
        elif facts["revision"] != ours:
            raise UsageError(
                f"{self.file.folder} was begun with revision {ours} of the model, and a worker has"
                f" {facts['revision']}: give --revision, or another folder"
            )
