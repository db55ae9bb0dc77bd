"""A run as one HTML file that needs no network: leaderboard, trade-off, breakdown by kind, cases, the worst first."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.bench.benchmark import Measure
from sfumato.bench.rows import Row, by_configuration, figure, finite
from sfumato.bench.statistics import Change, shared_cases, summarise
from sfumato.errors import UsageError

TEMPLATE = Path(__file__).with_name("report.html")
LARGEST = 256


def write_report(
    folder: Path,
    path: Path,
    rows: Sequence[Row],
    measures: Sequence[Measure],
    settings: Mapping[str, Any],
    *,
    title: str,
    about: str,
    totals: Mapping[str, Mapping[str, float | None]] | None = None,
    changes: Sequence[Change] = (),
    most_cases: int = 40,
) -> Path:
    """Writes the report.

    Args:
        folder: Of the run, whose pictures are put into the file.
        path: Of the report, `.html`.
        rows: Of the run.
        measures: Its columns.
        settings: Its `run.json`.
        title, about: Of the benchmark.
        totals: Figures that only all rows of a configuration together have, by configuration.
        changes: Against an earlier run.
        most_cases: Cases of each configuration whose pictures are shown: the worst by the first measure.

    Raises:
        UsageError: The file cannot be written.
    """
    shown = [row for _, own in by_configuration(rows) for row in _worst(own, measures[0])[:most_cases]]
    pictures: dict[str, str] = {}
    for row in shown:
        for name in row.get("pictures", {}).values():
            if name not in pictures and (folder / name).is_file():
                pictures[name] = _embedded(folder / name)
    shared = shared_cases(rows)
    data = {
        "title": title,
        "about": about,
        "measures": [asdict(measure) for measure in measures],
        "summaries": [asdict(summary) for summary in summarise(shared, measures)],
        "left_out": len({row["case"] for row in rows}) - len({row["case"] for row in shared}),
        "kinds": [
            {"kind": kind, "summaries": [asdict(one) for one in summarise(own, measures)]}
            for kind, own in _by_kind(rows)
        ],
        "totals": totals or {},
        "changes": [asdict(change) for change in changes],
        "cases": [
            {key: row.get(key) for key in ("case", "kind", "configuration", "title", "figures", "pictures", "notes")}
            for row in shown
            if row["status"] == "done"
        ],
        "problems": [
            {key: row.get(key) for key in ("case", "configuration", "status", "error")}
            for row in rows
            if row["status"] == "error"
        ],
        "pictures": pictures,
        "settings": settings,
    }
    text = json.dumps(_sayable(data), allow_nan=False).replace("</", "<\\/")  # a title may hold what ends a script
    page = TEMPLATE.read_text("utf-8").replace("__TITLE__", html.escape(title)).replace("__DATA__", text)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _sayable(value: Any) -> Any:
    """The same with infinities as words, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {key: _sayable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(part) for part in value]
    return finite(value)


def _worst(rows: Sequence[Row], measure: Measure) -> list[Row]:
    sign = 1.0 if measure.better == "higher" else -1.0

    def rank(row: Row) -> float:
        value = figure(row, measure.name)
        return float("inf") if value is None else sign * value

    return sorted((row for row in rows if row["status"] == "done"), key=rank)


def _by_kind(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(kind, [row for row in rows if row["kind"] == kind]) for kind in dict.fromkeys(row["kind"] for row in rows)]


def _embedded(path: Path) -> str:
    """A picture as a data address: small ones as they are, larger ones scaled down, as JPEG."""
    with Image.open(path) as image:
        if max(image.size) <= LARGEST:
            return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        image.thumbnail((LARGEST, LARGEST))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
