"""The tables of docs/benchmarks.md, of docs/benchmarks/*.parquet; the text around them is written by hand.

    python -m tools.pages.leaderboard RUN [RUN ...]   takes over runs of `sfumato bench emoji-edit --out RUN`

Several runs become one where model and settings agree; `emoji-flow` has a table of its own. Figures are compared on the
same cases alone: the leaderboard is of the configurations that tried all of them, a second table of those that tried
fewer, beside the others on these.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from sfumato.bench.emoji_edit import MEASURES, REFERENCES
from sfumato.bench.rows import PARQUET, cases_tried, read_settings
from sfumato.bench.statistics import LEAST_CASES, compare
from tools.pages import DOCS

PAGE = DOCS / "benchmarks.md"
DATA = {
    "emoji": DOCS / "benchmarks" / "emoji-edit.parquet",
    "emoji-flow": DOCS / "benchmarks" / "emoji-flow.parquet",
}
"""By the model that was measured."""
SHARED = ("model", "revision", "settings", "dtype")
START, END = "<!-- {}: written by make pages -->\n", "<!-- end of {} -->"
SHOWN = (
    "target_distance", "inside_distance", "kept_psnr", "things_right", "tints_right", "style_right", "colour_right",
    "evaluations", "seconds",
)  # fmt: skip
LEADING = MEASURES[0]
Rows = Sequence[Mapping[str, Any]]


def take_over(runs: Iterable[Path]) -> None:
    """Merges the runs' rows into the page's data; a later run's row replaces an earlier one's.

    Raises:
        SystemExit: Runs of a model that has no table, of several models, or of other settings.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    for run in runs:
        found = read_settings(run)
        if settings and any(settings[name] != found[name] for name in SHARED):
            sys.exit(f"{run} differs from the runs before it in one of {', '.join(SHARED)}")
        settings = {name: found[name] for name in (*SHARED, "device", "environment", "workers")}
        rows |= {(row["configuration"], row["case"]): row for row in parquet.read_table(run / PARQUET).to_pylist()}
    if settings["model"] not in DATA:
        sys.exit(f"the page has tables of {' and '.join(DATA)}, not of {settings['model']}")
    file = DATA[settings["model"]]
    file.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([rows[key] for key in sorted(rows)]), file, compression="zstd")
    file.with_suffix(".json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def read(model: str) -> list[dict[str, Any]]:
    """The rows of a model as a run has them, its figures apart."""
    names = [measure.name for measure in MEASURES]
    return [
        {**row, "figures": {name: row[name] for name in names if row.get(name) is not None}}
        for row in parquet.read_table(DATA[model]).to_pylist()
    ]


def tables(rows: Rows) -> dict[str, str]:
    """All tables as Markdown, by name."""
    tried = cases_tried(rows)
    everything = set.union(*tried.values())
    whole = [name for name, cases in tried.items() if cases == everything]
    full = _comparable([row for row in rows if row["configuration"] in whole])
    found = {"leaderboard": _leaderboard(full), "kinds": _kinds([row for row in rows if row["configuration"] in whole])}
    if partly := [name for name in tried if name not in whole]:
        common = set.intersection(*(tried[name] for name in partly))
        fewer = _comparable([row for row in rows if row["case"] in common])
        found["fewer"] = _leaderboard(fewer)
    return found


def written(page: str) -> str:
    """The page with the present tables."""
    found = tables(read("emoji")) | {"flow": _leaderboard(_comparable(read("emoji-flow")))}
    for name, table in found.items():
        before, rest = page.split(START.format(name))
        page = before + START.format(name) + "\n" + table + "\n\n" + END.format(name) + rest.split(END.format(name))[1]
    return page


def _comparable(rows: Rows) -> Rows:
    """Without the cases that some configuration cannot do."""
    left_out = {row["case"] for row in rows if row["status"] == "not applicable"}
    return [row for row in rows if row["case"] not in left_out]


def _leaderboard(rows: Rows) -> str:
    nothing = [row for row in rows if row["configuration"] == "unedited"]
    order = _ranked(rows)
    titles = {measure.name: (measure.title, measure.digits) for measure in MEASURES}
    heads = ["", *(titles[name][0] for name in SHOWN), "against doing nothing", "cases"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in order:
        own = _of(rows, name)
        means = [(_mean(own, shown), titles[shown][1]) for shown in SHOWN]
        cells = ["" if mean is None else f"{mean:.{digits}f}" for mean, digits in means]
        lines.append("| " + " | ".join([f"`{name}`", *cells, _against(own, nothing), str(len(own))]) + " |")
    return "\n".join(lines)


def _against(own: Rows, nothing: Rows) -> str:
    """The difference of the leading measure with its interval."""
    renamed = [{**row, "configuration": "one"} for row in own]
    (change,) = compare(renamed, [{**row, "configuration": "one"} for row in nothing], [LEADING])
    if not change.difference and not change.low:
        return ""
    return f"{change.verdict}: {change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _kinds(rows: Rows) -> str:
    """The leading measure by kind of edit that has it; in bold what no other beats by more than chance."""
    measured = [row for row in sorted(rows, key=lambda row: row["case"]) if LEADING.name in row["figures"]]
    kinds = list(dict.fromkeys(row["kind"] for row in measured))
    names = _ranked(rows)
    best: dict[str, set[str]] = {}
    for kind in kinds:
        of_kind = [{**row, "case": row["case"]} for row in rows if row["kind"] == kind and row["status"] == "done"]
        means = {name: _mean(_of(of_kind, name), LEADING.name) for name in names if name not in REFERENCES}
        known = {name: mean for name, mean in means.items() if mean is not None}
        best[kind] = set()
        if len({row["case"] for row in of_kind}) < LEAST_CASES:
            continue
        first = min(known, key=lambda name: known[name])
        leader = [{**row, "configuration": "one"} for row in _of(of_kind, first)]
        best[kind] = {first}
        for name in known:
            (change,) = compare([{**row, "configuration": "one"} for row in _of(of_kind, name)], leader, [LEADING])
            if change.verdict == "same":
                best[kind].add(name)
    lines = ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name in names:
        cells = []
        for kind in kinds:
            own = [row for row in _of(rows, name) if row["kind"] == kind]
            mean = _mean(own, LEADING.name)
            shown = "" if mean is None else f"{mean:.{LEADING.digits}f}"
            cells.append(f"**{shown}**" if name in best[kind] else shown)
        lines.append("| " + " | ".join([f"`{name}`", *cells]) + " |")
    return "\n".join(lines)


def _ranked(rows: Rows) -> list[str]:
    """Configurations, the best by the leading measure first; equal ones by name."""
    names = {row["configuration"] for row in rows}
    return sorted(names, key=lambda name: (_mean(_of(rows, name), LEADING.name) or 0, name))


def _of(rows: Rows, name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["configuration"] == name]


def _mean(rows: Rows, name: str) -> float | None:
    values = [row["figures"][name] for row in rows if name in row["figures"]]
    return statistics.mean(values) if values else None


if __name__ == "__main__":
    take_over([Path(argument) for argument in sys.argv[1:]])
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
