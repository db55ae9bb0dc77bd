"""`sfumato bench`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import note, print_json, stdout, table, working
from sfumato.apps.loading import parts
from sfumato.apps.options import (
    AsJson,
    ClipSkip,
    Compile,
    Device,
    Dtype,
    Embedding,
    Lora,
    ModelName,
    Offload,
    Revision,
    Steps,
    Vae,
    Variant,
)
from sfumato.errors import SfumatoError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfumato.bench.benchmark import Bar, Benchmark
    from sfumato.bench.statistics import Change, Summary


def bench(
    name: Annotated[str | None, typer.Argument(help="The benchmark; without one, all are listed.")] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Methods to measure, separated by commas.", show_default="all but the slow ones"
        ),
    ] = None,
    inversions: Annotated[
        str | None,
        typer.Option(
            "--inversions",
            help="Inversions to measure them with, separated by commas, or: all.",
            show_default="the first choice of each method",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the results; an earlier run is continued.", show_default="bench-NAME"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of cases, taken evenly from all kinds.", show_default="all"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data, for benchmarks that need one, such as pie.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="How the benchmark pie measures: pie-2023 (as published) or strict."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another option of the benchmark. Repeatable."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="Folder of an earlier run; say what became better or worse.", show_default="no comparison"),
    ] = None,
    model: ModelName = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(help="Seed of every case.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes, each with one thread.")] = 1,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Run again the cases that failed earlier.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    compile_: Compile = False,
    offload: Offload = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    as_json: AsJson = False,
) -> None:
    """Measure methods on a benchmark. A run can be stopped at any time; the same command continues it.

    Example: sfumato bench emoji-edit --methods prompt-to-prompt,sdedit --limit 20 --out run
    """
    from sfumato.bench.registry import BENCHMARKS, make_benchmark

    if name is None:
        table([(key, about) for key, (_, about) in BENCHMARKS.items()], to=stdout())
        return
    options: dict[str, Any] = {"steps": steps, "seed": seed}
    options |= {key: value for key, value in (("data", data), ("protocol", protocol)) if value is not None}
    with working("starting"):
        from sfumato.bench.benchmark import HasBars
        from sfumato.bench.report import write_report
        from sfumato.bench.rows import by_configuration, read_rows, read_settings
        from sfumato.bench.runner import run
        from sfumato.bench.statistics import compare as compare_runs
        from sfumato.bench.statistics import shared_cases, summarise
        from sfumato.models.loading import load_model
        from sfumato.watch import progress_bar

        benchmark = make_benchmark(name, texts=_texts(settings or []), **options)
        configurations = benchmark.configurations(_names(methods), _names(inversions))
        before = None if compare is None else read_rows(compare)
    for line in benchmark.notes:
        note(line)

    folder = out or Path(f"bench-{name}")
    loading = {
        "name": model or "emoji", "device": device, "dtype": dtype, "revision": revision, "variant": variant,
        "compile": compile_, "offload": offload, **parts(lora, embedding, vae, clip_skip),
    }  # fmt: skip
    with progress_bar() as watch:
        rows = run(
            benchmark, configurations, folder, partial(load_model, **loading),
            limit=limit, workers=workers, retry_errors=retry_errors, earlier=compare, loading=loading, watch=watch,
        )  # fmt: skip
    changes = [] if before is None else compare_runs(rows, before, benchmark.measures)
    _note_other_machine(compare, folder)
    totals = {key: _total(benchmark, own, folder) for key, own in by_configuration(rows)}
    bars = list(benchmark.bars(rows, folder)) if isinstance(benchmark, HasBars) else []
    page = write_report(
        folder, folder / "report.html", rows, benchmark.measures, read_settings(folder),
        title=benchmark.title, about=benchmark.about, totals={key: own for key, own in totals.items() if own},
        changes=changes, bars=bars,
    )  # fmt: skip
    summaries = summarise(shared_cases(rows), benchmark.measures)
    if as_json:
        print_json(
            {
                "command": "bench", "benchmark": name, "folder": str(folder), "report": str(page),
                "summaries": [vars(summary) for summary in summaries], "totals": totals,
                "changes": [vars(change) for change in changes],
                "bars": [{**vars(bar), "met": bar.met} for bar in bars], "notes": list(benchmark.notes),
            }
        )  # fmt: skip
    else:
        _show(benchmark, summaries, changes)
        _show_bars(bars)
        table([("rows", str(folder / "rows.jsonl")), ("report", str(page))], to=stdout())
    _check_outcome([row for row in rows if row["configuration"] in {one.name for one in configurations}])
    if before is not None and not changes:
        raise SfumatoError(f"nothing to compare: no figure of this run has a counterpart in {compare}")


def _show_bars(bars: Sequence[Bar]) -> None:
    """What is asked for, and whether it is met."""
    from rich.table import Table

    from sfumato.bench.benchmark import shown_number

    if not bars:
        return
    board = Table("", "asked for", "measured", "met", "", box=None, pad_edge=False)
    for bar in bars:
        limit = f"{'at least' if bar.better == 'higher' else 'at most'} {shown_number(bar.bound, bar.digits)}"
        met = {True: "yes", False: "no", None: "not measured"}[bar.met]
        board.add_row(bar.kind or "all", limit, shown_number(bar.value, bar.digits), met, bar.title)
    stdout().print(board)


def _texts(settings: list[str]) -> dict[str, str]:
    """Options of the benchmark from NAME=VALUE."""
    found = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not (key and equals):
            raise UsageError(f"--set takes name=value, got {setting!r}")
        found[key.replace("-", "_")] = text
    return found


def _total(benchmark: Benchmark, rows: list[dict[str, Any]], folder: Path) -> dict[str, float | None]:
    """The figures of all results together; a file that is gone or damaged costs them alone."""
    try:
        return dict(benchmark.summarise(rows, folder))
    except SfumatoError as error:
        note(f"{rows[0]['configuration']}: no figures of all results together ({error})")
        return {}


def _note_other_machine(compare: Path | None, folder: Path) -> None:
    """Says where seconds of two runs cannot be compared."""
    from sfumato.bench.rows import read_settings
    from sfumato.bench.runner import same_machine

    if compare is not None and not same_machine(read_settings(compare), read_settings(folder)):
        note(f"{compare} ran on another machine or number of processes: seconds and memory do not compare")


def _check_outcome(rows: list[dict[str, Any]]) -> None:
    """A run that measured nothing is a failure."""
    if any(row["status"] == "done" for row in rows):
        return
    reasons = [row.get("error", "") for row in rows if row["status"] == "error"] or ["no case applies to these methods"]
    raise SfumatoError(f"none of the {len(rows)} cases could be measured: {reasons[0]}")


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _show(benchmark: Benchmark, summaries: list[Summary], changes: list[Change]) -> None:
    """The leaderboard by its leading figures, failures, and what changed."""
    from rich.table import Table

    from sfumato.bench.statistics import LEAST_CASES

    leading = [m for m in benchmark.measures if any(s.means[m.name] is not None for s in summaries)][:6]
    board = Table("", *[measure.title for measure in leading], box=None, pad_edge=False)
    for summary in summaries:
        means = [summary.means[measure.name] for measure in leading]
        cells = [measure.shown(mean) for mean, measure in zip(means, leading, strict=True)]
        board.add_row(summary.configuration, *cells)
    stdout().print(board)
    for summary in summaries:
        if summary.errors:
            note(f"{summary.configuration}: {summary.errors} cases failed; the report says why")
    titles = {measure.name: measure for measure in benchmark.measures}
    moved = [change for change in changes if change.verdict in ("better", "worse")]
    for change in moved:
        old, new = (titles[change.measure].shown(value) for value in (change.old, change.new))
        note(
            f"{change.configuration}, {change.measure}: {change.verdict}, {old}, now {new};"
            f" difference {change.difference:+.3g} in [{change.low:.3g}, {change.high:.3g}], {change.cases} cases"
        )
    if few := [change.cases for change in changes if change.verdict == "too few"]:
        note(f"{max(few)} cases in common are too few for a verdict; {LEAST_CASES} are needed")
    elif changes and not moved:
        note("no difference is larger than chance explains")
