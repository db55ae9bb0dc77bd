"""Rows of a run, one line of JSON each, on disk as soon as they are done; and the settings that they belong to.

A run may be killed at any moment. A line that was cut off is dropped when the run goes on, so that no row is lost or
doubled. One process at a time adds rows to a folder. Rows may come from a stranger's run: every one is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sfumato import checks
from sfumato.errors import UsageError
from sfumato.files import locked, write_whole
from sfumato.json_input import MAX_BYTES, JsonError, check_fields, read_json

Row = dict[str, Any]
Kept = TypeVar("Kept")
ROWS, SETTINGS, LOCK = "rows.jsonl", "run.json", ".lock"
LONGEST_TEXT = 4_000
"""Characters of a title, an error or a note; what is longer is cut off when the row is made."""


@dataclass(frozen=True)
class RowKind:
    """What the rows of a kind of runs hold.

    Attributes:
        run: How messages call such a run, "benchmark".
        entries: Checks of the entries of a row, by name.
        optional: Entries that may be missing.
    """

    run: str
    entries: Mapping[str, checks.Check]
    optional: Sequence[str] = ()


def each_row(folder: Path, kind: RowKind) -> Iterator[Row]:
    """The whole rows of a run, one by one, in the order in which they were done.

    Raises:
        UsageError: The folder holds no run, or a row before the end of its file is damaged.
    """
    file, number = folder / ROWS, 0
    if not file.is_file():
        raise UsageError(f"{folder} holds no {kind.run} run ({ROWS} is missing)")
    try:
        with file.open("rb") as lines:
            while line := lines.readline(MAX_BYTES + 1):
                if not line.endswith(b"\n") and len(line) <= MAX_BYTES:  # it was cut off
                    break
                number += 1
                yield _row(line, kind)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (JsonError, UsageError) as error:
        raise UsageError(f"{file} is damaged in line {number} ({error}): remove that line, it is done again") from error


def read_settings(folder: Path, run: str) -> Row:
    """What the run in a folder was started with; `run` is how messages call it.

    Raises:
        UsageError: The folder holds no run.
    """
    try:
        file = folder / SETTINGS
        if not file.is_file():
            raise FileNotFoundError("it is missing")
        with file.open("rb") as opened:
            found = read_json(opened.read(MAX_BYTES + 1))
        if not isinstance(found, dict):
            raise JsonError("it is no object with names")
    except (OSError, JsonError) as error:
        raise UsageError(f"{folder} holds no {run} run ({SETTINGS}: {error})") from error
    return found


def differences(known: Mapping[str, Any], ours: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """In which of the named settings two runs differ, `steps = 50, not 20`; inside tables, name by name."""
    found = []
    for name in names:
        old, new = known.get(name), json.loads(json.dumps(ours.get(name)))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}.{text}" for text in differences(old, new, list(old | new))]
        else:
            found.append(f"{name} = {old!r}, not {new!r}")
    return found


@contextmanager
def run_folder(folder: Path, run: str) -> Iterator[None]:
    """Makes the folder of a run and keeps other processes out of it; an empty one goes again.

    Raises:
        UsageError: It cannot be written, or another process has a run in it.
    """
    there = folder.is_dir()
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / LOCK))
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is running a {run} in {folder}: wait for it to end, or name another folder"
                ) from error
            except OSError as error:
                raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
            yield
    finally:
        if not there:
            with suppress(OSError):  # it holds something
                folder.rmdir()


class RowFile(Generic[Kept]):
    """The rows of one run, open for adding; to be used inside `run_folder`.

    Attributes:
        folder: Of the run.
        rows: What is kept in memory of each row.
    """

    def __init__(
        self,
        folder: Path,
        kind: RowKind,
        settings: Mapping[str, Any],
        fixed: Sequence[str],
        keep: Callable[[Row], Kept],
    ) -> None:
        """Opens a new run, or goes on with the one that is there.

        Args:
            folder: Of the run.
            kind: Of its rows.
            settings: What the run is started with; JSON can say it.
            fixed: Names of the settings that rows depend on: they must be those of the run that is there.
            keep: What is kept in memory of a row.

        Raises:
            UsageError: The folder holds a run with other settings, or cannot be written.
        """
        self.folder, self._keep = folder, keep
        known = read_settings(folder, kind.run) if (folder / SETTINGS).is_file() else settings
        if differ := differences(known, settings, fixed):
            raise UsageError(
                f"{folder} holds a run with {'; '.join(differ)}: choose another folder, or the same settings to go on"
                " with it"
            )
        file = folder / ROWS
        if file.exists() and not file.is_file():
            raise UsageError(f"{file} is not a regular file: choose another folder")
        self.rows = [keep(row) for row in each_row(folder, kind)] if file.is_file() else []
        self.write_settings(settings)
        try:
            if file.is_file():
                whole = file.read_bytes()
                if not whole.endswith(b"\n") and whole:
                    write_whole(file, whole[: whole.rfind(b"\n") + 1])
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror or error}") from error

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes what the run is started with, whole or not at all."""
        write_whole(self.folder / SETTINGS, json.dumps(dict(settings), indent=1) + "\n")

    def add(self, row: Row) -> None:
        """Puts a row on disk.

        Raises:
            UsageError: It cannot be written; the same command goes on from the rows that are there.
        """
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UsageError(
                f"cannot write {self.folder / ROWS} ({error.strerror or error}): the rows before are kept, and the same"
                " command goes on from there"
            ) from error
        self.rows.append(self._keep(row))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk, of which `add` has told
            self._file.close()


def finite(value: float | int | None) -> float | int | str | None:
    """A figure as JSON can say it: infinity, which a perfect PSNR is, as a word."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def short(text: str) -> str:
    """A text as a row can hold it: never longer than `read_rows` takes, no half characters."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= LONGEST_TEXT else plain[: LONGEST_TEXT - 1] + "…"


def safe_name(name: str) -> str:
    """A name as a file name, another for another name: what a file system might take amiss becomes a dash."""
    plain = "".join(letter if letter.isalnum() or letter in "-_.=," else "-" for letter in name)[:100]
    if plain and plain == name and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"


def text(name: str, value: Any) -> str:
    """A check: text that a row can hold."""
    return checks.text(name, value, most=LONGEST_TEXT)


def figure_value(name: str, value: Any) -> float | int | str | None:
    """A check: a figure as `finite` gives it."""
    if not (value is None or value in ("inf", "-inf") or type(value) in (int, float)):
        raise checks.refuse(name, 'a number, null, "inf" or "-inf"', value)
    found: float | int | str | None = value
    return found


def inside(name: str, value: Any) -> str:
    """A check: a path that stays inside the run's folder."""
    text = checks.text(name, value, most=LONGEST_TEXT)
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
            raise checks.refuse(name, "a path inside the folder of the run", value)
    return text


def _row(line: bytes, kind: RowKind) -> Row:
    return check_fields(
        read_json(line),
        kind.entries,
        optional=kind.optional,
        what="the row",
        remedy="it is not of this version",
        error=UsageError,
    )
