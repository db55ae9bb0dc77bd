"""A run as one HTML file that needs no network: leaderboard, trade-off, breakdown by kind, cases, the worst first."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sfumato.bench.benchmark import Bar, Measure
from sfumato.bench.data import path_inside
from sfumato.bench.rows import by_configuration, figure
from sfumato.bench.statistics import Change, shared_cases, summarise
from sfumato.errors import ImageError
from sfumato.files import write_whole
from sfumato.images import load_image
from sfumato.run.rows import Row, finite

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
    bars: Sequence[Bar] = (),
    most_cases: int = 40,
    find: Callable[[str], Path] | None = None,
) -> Path:
    """Writes the report.

    Args:
        folder: Of the run, whose images are put into the file.
        path: Of the report, `.html`.
        rows: Of the run.
        measures: Its columns.
        settings: Its `run.json`.
        title, about: Of the benchmark.
        totals: Figures that only all rows of a configuration together have, by configuration.
        changes: Against an earlier run.
        bars: What is asked for, and whether it is met.
        most_cases: Cases of each configuration whose images are shown: the worst by the first measure.
        find: Gives where an image lies that rows name; None: in the folder.

    Raises:
        UsageError: The file cannot be written.
    """
    shown = [row for _, own in by_configuration(rows) for row in _worst(own, measures[0])[:most_cases]]
    images: dict[str, str] = {}
    for row in shown:
        for name in row.get("pictures", {}).values():
            if name not in images:
                with suppress(ImageError):  # it is gone or damaged: the report goes without it
                    images[name] = _embedded(find(name) if find else path_inside(folder, name))
    shared = shared_cases(rows)
    data = {
        "title": title,
        "measures": [asdict(measure) for measure in measures],
        "summaries": [asdict(summary) for summary in summarise(shared, measures)],
        "left_out": len({row["case"] for row in rows}) - len({row["case"] for row in shared}),
        "kinds": [
            {"kind": kind, "summaries": [asdict(one) for one in summarise(own, measures)]}
            for kind, own in _by_kind(rows)
        ],
        "totals": totals or {},
        "changes": [asdict(change) for change in changes],
        "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
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
        "pictures": images,
        "settings": settings,
    }
    text = json.dumps(_sayable(data), allow_nan=False).replace("</", "<\\/")  # a title may hold what ends a script
    parts = {"TITLE": html.escape(title), "ABOUT": _marked_up(about), "DATA": text}
    page = re.sub("__(TITLE|ABOUT|DATA)__", lambda place: parts[place[1]], TEMPLATE.read_text("utf-8"))
    write_whole(path, page)
    return path


def _marked_up(text: str) -> str:
    """Prose as HTML: what stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


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
    """An image as a data address: small ones as PNG, larger ones scaled down, as JPEG."""
    image, buffer, kind = load_image(path).image, io.BytesIO(), "png"
    if max(image.size) <= LARGEST:
        image.save(buffer, "PNG")
    else:
        image.thumbnail((LARGEST, LARGEST))
        image.save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
