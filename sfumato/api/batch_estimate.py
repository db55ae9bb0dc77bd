"""What a batch would do and take, with nothing written into its folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfumato.api.batch import Options, laid_out
from sfumato.api.batch_items import Item, Settings
from sfumato.api.batch_layout import runs_of
from sfumato.api.batch_rows import ROW, Known
from sfumato.api.batch_work import Begin, Task
from sfumato.api.manifest import Line
from sfumato.edits.method import METHODS
from sfumato.run.rows import ROWS, Row, each_row

MOST_MEASURED = 3
"""Kinds of items of which one is made, to see what it takes."""
MOST_PROBLEMS = 20
_OF_INVERSION = (
    "image", "source_prompt", "inversion", "inversion_options", "negative_prompt", "num_inference_steps",
    "source_guidance_scale", "seed", "size", "fit", "background", "encode_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """What a batch would do.

    Attributes:
        items: All.
        done: Of them, done before.
        broken: Of them, that cannot be made, as far as is known.
        equal: Of them, equal to another one.
        runs: Calls of the model that are left, each of one or several targets of an image.
        inversions: That these need, each done once.
        evaluations, seconds, bytes: What is left would take, by one run of each kind, or of the first few; None where
            nothing is left, or nothing could be measured.
        workers: At once, which `seconds` reckons with.
        problems: What is wrong with the first items that cannot be made, or could not be measured.
    """

    items: int
    done: int
    broken: int
    equal: int
    runs: int
    inversions: int
    evaluations: float | None
    seconds: float | None
    bytes: int | None
    workers: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)


def estimate(
    lines: Sequence[Line], defaults: Mapping[str, Any], settings: Settings, out: Path, options: Options
) -> Estimate:
    """Says what a batch would do and take. The model is loaded, and an image of each kind made and thrown away.

    Raises:
        SfumatoError: The model cannot be loaded.
    """
    known = [Known.of(row) for row in each_row(out, ROW)] if (out / ROWS).is_file() else []
    taken = {row.name.lower(): row.key for row in known if row.done}
    items = laid_out(lines, defaults, settings, options, taken)
    there = {(row.name, row.key) for row in known if row.done}
    first = {item.key: item for item in reversed(items)}
    left = [item for item in first.values() if not item.error and (item.name, item.key) not in there]
    runs = [run for group in runs_of(reversed(left)) for run in group]
    broken = [item for item in items if item.error]
    problems = [f"line {item.line}: {item.error}" for item in broken[:MOST_PROBLEMS]]
    kinds: dict[str, list[list[Item]]] = {}
    for run in runs:
        kinds.setdefault(_kind(run), []).append(run)
    measured = _measured([own[0] for own in list(kinds.values())[:MOST_MEASURED]], settings, options)
    problems += [row["error"] for rows, _ in measured for row in rows if row["status"] == "error"]
    costs = {
        kind: _cost(rows, size)
        for kind, (rows, size) in zip(kinds, measured, strict=False)
        if all(row["status"] == "done" for row in rows)
    }
    totals = [0.0, 0.0, 0.0]
    for kind, own in kinds.items():
        each = costs.get(kind) or [sum(part) / len(costs) for part in zip(*costs.values(), strict=True)]
        count = sum(map(len, own))
        totals = [total + count * part for total, part in zip(totals, each or totals, strict=True)]
    return Estimate(
        items=len(items),
        done=sum((item.name, item.key) in there for item in items),
        broken=len(broken),
        equal=len(items) - len(first),
        runs=len(runs),
        inversions=len({_inversion(run[0]) for run in runs} - {""}),
        evaluations=round(totals[0]) if costs else None,
        seconds=totals[1] / min(options.workers, max(1, len(runs))) if costs else None,
        bytes=round(totals[2]) if costs else None,
        workers=options.workers,
        problems=tuple(problems),
    )


def _measured(runs: Sequence[Sequence[Item]], settings: Settings, options: Options) -> list[tuple[list[Row], int]]:
    """Rows and bytes of runs that are made and thrown away."""
    if not runs:
        return []
    with tempfile.TemporaryDirectory(prefix="sfumato-") as name:
        folder = Path(name)
        _, work = Begin(settings.model, folder, options.threads)()
        found = []
        for run in runs:
            rows = work(Task(run, frozenset(item.name for item in run), ""))
            files = [folder / item.name for item in run]
            found.append((rows, sum(file.stat().st_size for file in files if file.is_file())))
    return found


def _cost(rows: Sequence[Row], size: int) -> list[float]:
    """Evaluations, seconds and bytes of one item."""
    evaluations = sum(float(row["figures"]["evaluations"]) for row in rows)
    return [total / len(rows) for total in (evaluations, sum(row["took"] for row in rows), size)]


def _kind(run: Sequence[Item]) -> str:
    """Equal for runs that cost alike."""
    own = run[0].arguments
    names = ("method", "inversion", "num_inference_steps", "encode_steps", "size", "num_frames", "options")
    return json.dumps([run[0].command, *(own.get(name) for name in names)], default=str, sort_keys=True)


def _inversion(item: Item) -> str:
    """Equal for edits that share an inversion; "" for what needs none."""
    if item.command != "edit" or METHODS[item.arguments["method"]].from_image or not item.arguments.get("image"):
        return ""
    return json.dumps([item.arguments.get(name) for name in _OF_INVERSION], default=str, sort_keys=True)
