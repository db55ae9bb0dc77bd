"""Rows of a batch: what became of each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sfumato import checks
from sfumato.api.batch_items import Item
from sfumato.run import rows
from sfumato.run.rows import Row, RowKind, finite, short

IMAGES = "images"
"""The folder of the images, in that of the batch."""
STATUSES = ("done", "error")

_whole = partial(checks.whole, low=0)
ROW = RowKind(
    "batch",
    {
        "item": rows.text,
        "key": rows.text,
        "index": _whole,
        "line": _whole,
        "id": rows.text,
        "command": rows.text,
        "method": rows.text,
        "target": rows.text,
        "status": lambda name, value: checks.choice(name, value, STATUSES),
        "error": rows.text,
        "image": rows.inside,
        "run": rows.text,
        "same_as": rows.text,
        "adopted": checks.flag,
        "figures": lambda name, value: checks.table(name, value, rows.figure_value),
        "notes": lambda name, value: checks.listed(name, value, rows.text),
        "note": lambda name, value: checks.table(name, value, rows.text),
        "took": lambda name, value: checks.number(name, value, low=0),
    },
    optional=(
        "id", "method", "target", "error", "image", "run", "same_as", "adopted", "figures", "notes", "note", "took",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept in memory of a row.

    Attributes:
        name, key: Of its item.
        done: Whether its image is there.
        run: Of which items it was run with, see `run_id`.
        psnr: Of the source's reconstruction, dB; None where it is not known.
    """

    name: str
    key: str
    done: bool
    run: str
    psnr: float | None

    @classmethod
    def of(cls, row: Row) -> Known:
        """The part of a row that is kept."""
        psnr = row.get("figures", {}).get("reconstruction_psnr")
        return cls(
            row["item"], row["key"], row["status"] == "done", row.get("run", ""), None if psnr is None else float(psnr)
        )


def done_row(item: Item, *, figures: Mapping[str, Any], notes: Sequence[str], took: float, run: str) -> Row:
    """The row of an image that was made."""
    return {
        **_named(item),
        "status": "done",
        "image": f"{IMAGES}/{item.name}",
        "run": run,
        "figures": {name: finite(value) for name, value in figures.items()},
        "notes": [short(note) for note in notes],
        "took": round(took, 3),
    }


def adopted_row(item: Item) -> Row:
    """The row of an image that was made before its row could be written."""
    return {**_named(item), "status": "done", "image": f"{IMAGES}/{item.name}", "adopted": True}


def same_row(item: Item, made: Known) -> Row:
    """The row of an item that is equal to one that was made, or failed."""
    row = {**_named(item), "status": "done" if made.done else "error", "run": made.run, "same_as": made.name}
    if not made.done:
        return {**row, "error": f"as {made.name}, which is equal to it"}
    figures = {} if made.psnr is None else {"figures": {"reconstruction_psnr": finite(made.psnr)}}
    return {**row, "image": f"{IMAGES}/{item.name}", **figures}


def error_row(item: Item, error: str, run: str = "") -> Row:
    """The row of an item that could not be made."""
    return {**_named(item), "status": "error", "error": short(error), "run": run}


def error_text(error: Exception) -> str:
    """An error as rows say it."""
    return f"{type(error).__name__}: {error}"


def _named(item: Item) -> Row:
    target, method = item.arguments.get("target_prompt"), item.arguments.get("method")
    found: Row = {"item": item.name, "key": item.key, "index": item.index, "line": item.line, "command": item.command}
    texts = {"id": item.id, "method": method, "target": target}
    found |= {name: short(value) for name, value in texts.items() if isinstance(value, str) and value}
    return found | ({"note": dict(item.notes)} if item.notes else {})
