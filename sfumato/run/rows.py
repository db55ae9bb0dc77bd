"""Rows of a run, one line of JSON each, on disk as soon as they are done; and the settings that they belong to.

A run may be killed at any moment. A line that was cut off is dropped when the run goes on, so that no row is lost or
doubled. One process at a time adds rows to a folder. Rows may come from a stranger's run: every one is checked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Self

from sfumato import checks
from sfumato.errors import UsageError
from sfumato.files import locked, write_whole, written_whole
from sfumato.json_input import MAX_BYTES, JsonError, check_fields, read_json

Row = dict[str, Any]
ROWS, SETTINGS, PARQUET, LOCK = "rows.jsonl", "run.json", "rows.parquet", ".lock"
STATUSES = ("done", "error", "not applicable")
LONGEST_TEXT = 4_000
"""Characters of a title, an error or a note; what is longer is cut off when the row is made."""


def read_rows(folder: Path) -> list[Row]:
    """The whole rows of a run, in the order in which they were done.

    Raises:
        UsageError: The folder holds no run, or a row before the end of its file is damaged.
    """
    file = folder / ROWS
    if not file.is_file():
        raise UsageError(f"{folder} holds no benchmark run ({ROWS} is missing)")
    rows: list[Row] = []
    try:
        with file.open("rb") as lines:
            while line := lines.readline(MAX_BYTES + 1):
                if not line.endswith(b"\n") and len(line) <= MAX_BYTES:  # it was cut off
                    break
                rows.append(_row(line))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (JsonError, UsageError) as error:
        raise UsageError(
            f"{file} is damaged in line {len(rows) + 1} ({error}): remove that line, it is done again"
        ) from error
    return rows


def read_settings(folder: Path) -> Row:
    """What the run in a folder was started with.

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
        raise UsageError(f"{folder} holds no benchmark run ({SETTINGS}: {error})") from error
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
def run_folder(folder: Path) -> Iterator[None]:
    """Makes the folder of a run and keeps other processes out of it; an empty one goes again.

    Raises:
        UsageError: It cannot be written, or another process runs a benchmark in it.
    """
    there = folder.is_dir()
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / LOCK))
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is running a benchmark in {folder}: wait for it to end, or name another folder"
                ) from error
            except OSError as error:
                raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
            yield
    finally:
        if not there:
            with suppress(OSError):  # it holds something
                folder.rmdir()


class RowFile:
    """The rows of one run, open for adding; to be used inside `run_folder`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], fixed: Sequence[str]) -> None:
        """Opens a new run, or goes on with the one that is there.

        Args:
            folder: Of the run.
            settings: What the run is started with; JSON can say it.
            fixed: Names of the settings that rows depend on: they must be those of the run that is there.

        Raises:
            UsageError: The folder holds a run with other settings, or cannot be written.
        """
        self.folder = folder
        if (folder / SETTINGS).is_file() and (differ := differences(read_settings(folder), settings, fixed)):
            raise UsageError(
                f"{folder} holds a run with {'; '.join(differ)}: choose another folder, or the same settings to go on"
                " with it"
            )
        file = folder / ROWS
        if file.exists() and not file.is_file():
            raise UsageError(f"{file} is not a regular file: choose another folder")
        self.rows = read_rows(folder) if file.is_file() else []
        write_whole(folder / SETTINGS, json.dumps(dict(settings), indent=1) + "\n")
        try:
            if file.is_file():
                whole = file.read_bytes()
                if not whole.endswith(b"\n") and whole:
                    write_whole(file, whole[: whole.rfind(b"\n") + 1])
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror or error}") from error

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
        self.rows.append(row)

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


def figure(row: Mapping[str, Any], name: str) -> float | None:
    """A figure of a row; None where there is none."""
    value = row.get("figures", {}).get(name)
    return None if value is None else float(value)


def write_parquet(folder: Path, rows: Sequence[Row]) -> Path | None:
    """Writes the rows as a table, one column a figure; None where pyarrow is not installed.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.get("figures", {})))
    plain = ("case", "kind", "configuration", "method", "inversion", "status", "error")
    table = {name: [row.get(name) for row in rows] for name in plain}
    table |= {name: [figure(row, name) for row in rows] for name in names}
    path = folder / PARQUET
    with written_whole(path) as part:
        parquet.write_table(arrow.table(table), part)
    return path


def by_configuration(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of each configuration, in order of first appearance."""
    for name in dict.fromkeys(row["configuration"] for row in rows):
        yield name, [row for row in rows if row["configuration"] == name]


def short(text: str) -> str:
    """A text as a row can hold it: never longer than `read_rows` takes, no half characters."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= LONGEST_TEXT else plain[: LONGEST_TEXT - 1] + "…"


def _row(line: bytes) -> Row:
    return check_fields(
        read_json(line),
        _CHECKS,
        optional=_OPTIONAL,
        what="the row",
        remedy="it is not of this version",
        error=UsageError,
    )


def _text(name: str, value: Any) -> str:
    return checks.text(name, value, most=LONGEST_TEXT)


def _figure(name: str, value: Any) -> float | int | str | None:
    if not (value is None or value in ("inf", "-inf") or type(value) in (int, float)):
        raise checks.refuse(name, 'a number, null, "inf" or "-inf"', value)
    found: float | int | str | None = value
    return found


def _inside(name: str, value: Any) -> str:
    """A path that stays inside the run's folder."""
    text = checks.text(name, value, most=LONGEST_TEXT)
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
            raise checks.refuse(name, "a path inside the folder of the run", value)
    return text


_CHECKS: dict[str, checks.Check] = {
    "case": _text,
    "kind": _text,
    "configuration": _text,
    "method": _text,
    "inversion": _text,
    "status": lambda name, value: checks.choice(name, value, STATUSES),
    "error": _text,
    "title": _text,
    "figures": lambda name, value: checks.table(name, value, _figure),
    "pictures": lambda name, value: checks.table(name, value, _inside),
    "notes": lambda name, value: checks.listed(name, value, _text),
    "took": lambda name, value: checks.number(name, value, low=0),
}
_OPTIONAL = ("method", "inversion", "error", "title", "pictures", "notes", "took")
