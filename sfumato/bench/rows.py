"""Rows of benchmarks: what they hold, read back, and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato import checks
from sfumato.files import written_whole
from sfumato.run import rows
from sfumato.run.rows import Row, RowKind

PARQUET = "rows.parquet"
STATUSES = ("done", "error", "not applicable")
ROW = RowKind(
    "benchmark",
    {
        "case": rows.text,
        "kind": rows.text,
        "configuration": rows.text,
        "method": rows.text,
        "inversion": rows.text,
        "status": lambda name, value: checks.choice(name, value, STATUSES),
        "error": rows.text,
        "title": rows.text,
        "figures": lambda name, value: checks.table(name, value, rows.figure_value),
        "pictures": lambda name, value: checks.table(name, value, rows.inside),
        "notes": lambda name, value: checks.listed(name, value, rows.text),
        "took": lambda name, value: checks.number(name, value, low=0),
    },
    optional=("method", "inversion", "error", "title", "pictures", "notes", "took"),
)


def read_rows(folder: Path) -> list[Row]:
    """The whole rows of a benchmark run, in the order in which they were done; raises as `rows.each_row`."""
    return list(rows.each_row(folder, ROW))


def read_settings(folder: Path) -> Row:
    """What the benchmark run in a folder was started with; raises as `rows.read_settings`."""
    return rows.read_settings(folder, ROW.run)


def figure(row: Mapping[str, Any], name: str) -> float | None:
    """A figure of a row; None where there is none."""
    value = row.get("figures", {}).get(name)
    return None if value is None else float(value)


def cases_tried(rows: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The cases that each configuration tried, by its name: figures are compared on those that all have."""
    tried: dict[str, set[str]] = {}
    for row in rows:
        tried.setdefault(row["configuration"], set()).add(row["case"])
    return tried


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
