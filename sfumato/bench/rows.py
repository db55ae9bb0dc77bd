"""Rows of a run, one line of JSON each, on disk as soon as they are done; and the settings that they belong to.

A run may be killed at any moment. A line that was cut off is dropped when the run goes on, so that no row is lost or
doubled.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sfumato.errors import UsageError

Row = dict[str, Any]
ROWS, SETTINGS, PARQUET = "rows.jsonl", "run.json", "rows.parquet"


def read_rows(folder: Path) -> list[Row]:
    """The whole rows of a run, in the order in which they were done.

    Raises:
        UsageError: The folder holds no run, or its rows are damaged before their end.
    """
    file = folder / ROWS
    if not file.is_file():
        raise UsageError(f"{folder} holds no benchmark run ({ROWS} is missing)")
    rows: list[Row] = []
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if number == len(lines):  # what follows the last line break: nothing, or a line that was cut off
            break
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UsageError(
                f"{file} is damaged in line {number} ({error}): remove that line, it is done again"
            ) from error
    return rows


def read_settings(folder: Path) -> Row:
    """What the run in a folder was started with.

    Raises:
        UsageError: The folder holds no run.
    """
    try:
        found: Row = json.loads((folder / SETTINGS).read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder} holds no benchmark run ({SETTINGS}: {error})") from error
    return found


class RowFile:
    """The rows of one run, open for adding."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], fixed: Sequence[str]) -> None:
        """Opens a new run, or goes on with the one that is there.

        Args:
            folder: Made if it is missing.
            settings: What the run is started with; JSON can say it.
            fixed: Names of the settings that rows depend on: they must be those of the run that is there.

        Raises:
            UsageError: The folder holds a run with other settings, or cannot be written.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
        if (folder / SETTINGS).is_file():
            known = read_settings(folder)
            for name in fixed:
                ours = json.loads(json.dumps(settings.get(name)))
                if known.get(name) != ours:
                    raise UsageError(
                        f"{folder} holds a run with {name} = {known.get(name)!r}, not {ours!r}: choose another folder,"
                        " or the same settings to go on with it"
                    )
        _write_whole(folder / SETTINGS, json.dumps(dict(settings), indent=1) + "\n")
        file = folder / ROWS
        self.rows = read_rows(folder) if file.is_file() else []
        if file.is_file():
            whole = file.read_bytes()
            if not whole.endswith(b"\n") and whole:
                _write_whole(file, whole[: whole.rfind(b"\n") + 1].decode())
        self._file = file.open("a", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Puts a row on disk."""
        self.rows.append(row)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
    """Writes the rows as a table, one column a figure; None where pyarrow is not installed."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.get("figures", {})))
    plain = ("case", "kind", "configuration", "method", "inversion", "status", "error")
    table = {name: [row.get(name) for row in rows] for name in plain}
    table |= {name: [figure(row, name) for row in rows] for name in names}
    path, part = folder / PARQUET, folder / f".{PARQUET}.part"
    parquet.write_table(arrow.table(table), part)
    part.replace(path)
    return path


def by_configuration(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of each configuration, in order of first appearance."""
    for name in dict.fromkeys(row["configuration"] for row in rows):
        yield name, [row for row in rows if row["configuration"] == name]


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
