"""`sfumato bench`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import note, print_json, stdout, table, working
from sfumato.apps.options import AsJson, Device, Dtype, Embedding, Lora, ModelName, Revision, Steps, Vae, Variant
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.bench.benchmark import Benchmark
    from sfumato.bench.statistics import Change, Summary


def bench(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; without it, all are listed.")] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Names, with commas between.", show_default="all but the slow ones")
    ] = None,
    inversions: Annotated[
        str | None,
        typer.Option("--inversions", help="Likewise, or: all.", show_default="the first choice of each method"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="bench-NAME")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most cases, spread over all kinds.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data, for benchmarks that read one.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Rules of measuring, where a benchmark has several: pie-2023 or strict.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another option of the benchmark.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Folder of an earlier run to compare with.")] = None,
    model: ModelName = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(help="Of every case.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try failed cases again.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    as_json: AsJson = False,
) -> None:
    """Measure methods side by side; stop at any moment, and run again to go on.

    Example: sfumato bench emoji-edit --methods prompt-to-prompt,sdedit --limit 20 --out run
    """
    from sfumato.bench.registry import BENCHMARKS, make_benchmark

    if name is None:
        table([(key, about) for key, (_, about) in BENCHMARKS.items()], to=stdout())
        return
    options: dict[str, Any] = {"steps": steps, "seed": seed}
    options |= {key: value for key, value in (("data", data), ("protocol", protocol)) if value is not None}
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not (key and equals):
            raise UsageError(f"--set takes name=value, got {setting!r}")
        options[key.replace("-", "_")] = _value(text)
    with working("starting"):
        from sfumato.bench.report import write_report
        from sfumato.bench.rows import by_configuration, read_rows, read_settings
        from sfumato.bench.runner import run
        from sfumato.bench.statistics import compare as compare_runs
        from sfumato.bench.statistics import shared_cases, summarise
        from sfumato.models.loading import load_model
        from sfumato.samplers.watch import progress_bar

        benchmark = make_benchmark(name, **options)
        configurations = benchmark.configurations(_names(methods), _names(inversions))
        earlier = None if compare is None else read_rows(compare)
        if compare is not None and read_settings(compare).get("benchmark") != name:
            raise UsageError(f"{compare} holds a run of {read_settings(compare).get('benchmark')}, not of {name}")

    folder = out or Path(f"bench-{name}")
    loading = partial(
        load_model, model or "emoji", device=device, dtype=dtype, revision=revision, variant=variant,
        lora=lora, embeddings=embedding, vae=vae,
    )  # fmt: skip
    with progress_bar() as watch:
        rows = run(
            benchmark, configurations, folder, loading,
            limit=limit, workers=workers, retry_errors=retry_errors, watch=watch,
        )  # fmt: skip
    changes = [] if earlier is None else compare_runs(rows, earlier, benchmark.measures)
    totals = {key: dict(benchmark.summarise(own, folder)) for key, own in by_configuration(rows)}
    page = write_report(
        folder, folder / "report.html", rows, benchmark.measures, read_settings(folder),
        title=benchmark.title, about=benchmark.about, totals={key: own for key, own in totals.items() if own},
        changes=changes,
    )  # fmt: skip
    summaries = summarise(shared_cases(rows), benchmark.measures)
    if as_json:
        print_json(
            {
                "command": "bench",
                "benchmark": name,
                "folder": str(folder),
                "report": str(page),
                "summaries": [vars(summary) for summary in summaries],
                "totals": totals,
                "changes": [vars(change) for change in changes],
            }
        )
        return
    _show(benchmark, summaries, changes)
    table([("rows", str(folder / "rows.jsonl")), ("report", str(page))], to=stdout())


def _value(text: str) -> Any:
    """A value as JSON reads it, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _show(benchmark: Benchmark, summaries: list[Summary], changes: list[Change]) -> None:
    """The leaderboard by its leading figures, failures, and what changed."""
    from rich.table import Table

    leading = [m for m in benchmark.measures if any(s.means[m.name] is not None for s in summaries)][:6]
    board = Table("", *[measure.title for measure in leading], box=None, pad_edge=False)
    for summary in summaries:
        means = [summary.means[measure.name] for measure in leading]
        cells = ["–" if mean is None else f"{mean:.{m.digits}f}" for mean, m in zip(means, leading, strict=True)]
        board.add_row(summary.configuration, *cells)
    stdout().print(board)
    for summary in summaries:
        if summary.errors:
            note(f"{summary.configuration}: {summary.errors} cases failed; the report says why")
    moved = [change for change in changes if change.verdict != "same"]
    for change in moved:
        note(
            f"{change.configuration}, {change.measure}: {change.verdict}, {change.old:.3g}, now {change.new:.3g};"
            f" difference {change.difference:+.3g} in [{change.low:.3g}, {change.high:.3g}], {change.cases} cases"
        )
    if changes and not moved:
        note("nothing changed beyond what the draw of the cases explains")
