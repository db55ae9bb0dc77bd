"""Runs a benchmark: every case under every configuration, resumable at any moment, on several processes.

Only the main process writes rows; workers write images, each to a file of its own. A worker that dies is replaced, and
a case on which several died is an error row (`sfumato.run.jobs`).
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sfumato
from sfumato.bench.benchmark import Benchmark, Case, Configuration, MakesFirst, NotApplicable
from sfumato.bench.rows import ROW, read_rows, read_settings, write_parquet
from sfumato.edits.method import METHODS
from sfumato.errors import Cancelled, UsageError
from sfumato.images import save_image
from sfumato.inversions.method import INVERSIONS
from sfumato.models.base import Model
from sfumato.models.traits import unmet
from sfumato.registry import Entry
from sfumato.run.crew import Processes
from sfumato.run.jobs import Died, run_jobs
from sfumato.run.rows import Row, RowFile, differences, finite, run_folder, safe_name, short
from sfumato.watch import Watch

FIXED = ("benchmark", "settings", "model", "revision", "dtype")
Load = Callable[[], Model]
Job = tuple[Case, Configuration]


def run(
    benchmark: Benchmark,
    configurations: Sequence[Configuration],
    out: Path,
    load: Load,
    *,
    limit: int | None = None,
    workers: int = 1,
    retry_errors: bool = False,
    earlier: Path | None = None,
    loading: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> list[Row]:
    """Runs what has no row yet, and returns all rows of the run.

    Args:
        benchmark: Any.
        configurations: What is compared.
        out: Folder of `rows.jsonl`, `rows.parquet`, `run.json` and `pictures/`.
        load: Loads the model; called once a process, so it must be picklable where `workers` is above 1.
        limit: Most cases; of a benchmark of several kinds, spread evenly over them. None: all.
        workers: Processes, one thread each; 1: this process, with the threads that torch has.
        retry_errors: Try rows again that ended in an error.
        earlier: Folder of a run that this one will be compared with; it is looked at before the first case.
        loading: What `load` gives to `load_model`, for a benchmark that makes something first with several workers.
        watch: Progress and cancellation.

    Raises:
        UsageError: `out` holds another run, cannot be written, or another process runs a benchmark in it; or `earlier`
            measured other things, or no configuration and case of this run.
        SfumatoError: Workers die before they are ready.
        Cancelled: The watch asked to stop; rows that are done stay.
    """
    watch = (watch or Watch()).during("trying")
    cases = spread(benchmark.cases(), limit)
    planned = {(case.name, one.name): (case, one) for case in cases for one in configurations}
    with run_folder(out, ROW.run):
        model = load()
        configurations = served(model, configurations)
        planned = {job: made for job, made in planned.items() if made[1] in configurations}
        settings = {
            "benchmark": benchmark.name,
            "settings": dict(benchmark.settings),
            "model": model.name,
            "revision": model.revision,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "configurations": [asdict(configuration) for configuration in configurations],
            "environment": environment(),
            "workers": workers,
        }
        if earlier is not None:
            check_comparable(earlier, settings, set(planned))
        with RowFile(out, ROW, settings, FIXED, keep=lambda row: row) as file:
            kept = [row for row in file.rows if not (retry_errors and row["status"] == "error")]
            done = {(row["case"], row["configuration"]) for row in kept}
            jobs = [job for pair, job in planned.items() if pair not in done]
            if jobs and isinstance(benchmark, MakesFirst):
                benchmark.make(model, out, watch, workers=workers if loading else 1, loading=loading)
            if jobs:
                benchmark.prepare(model)  # here too when others work, so that what is missing is said
            if workers > 1:
                rows = _in_processes(benchmark, jobs, load, out, workers)
            else:
                rows = _here(benchmark, jobs, model, out)
            # asks for cancellation first, then waits for a row
            for _, row in zip(watch.over(jobs), rows, strict=False):
                file.add(row)
            latest = {(row["case"], row["configuration"]): row for row in file.rows}
            write_parquet(out, list(latest.values()))
        return list(latest.values())


def served(model: Model, configurations: Sequence[Configuration]) -> list[Configuration]:
    """Those that the model has what they need for.

    Raises:
        UsageError: There is none; says what the first needs.
    """
    needed = [
        (configuration, (*_needs(METHODS, configuration.method), *_needs(INVERSIONS, configuration.inversion)))
        for configuration in configurations
    ]
    found = [configuration for configuration, needs in needed if not unmet(needs, model)]
    if needed and not found:
        raise UsageError(f"{needed[0][0].name} needs {unmet(needed[0][1], model)}, and {model.name} has none")
    return found


def _needs(entries: Mapping[str, Entry[Any]], name: str) -> tuple[str, ...]:
    return entries[name].needs if name in entries else ()


def check_comparable(earlier: Path, settings: Row, planned: set[tuple[str, str]]) -> None:
    """Refuses to compare with a run that measured other things, before anything is measured.

    Args:
        earlier: Its folder.
        settings: Of the run to come.
        planned: Names of the cases and configurations that it will try.

    Raises:
        UsageError: Benchmark, its settings (protocol, steps, seed, data, ...), model or precision differ, or no planned
            case was tried under the same configuration.
    """
    known = read_settings(earlier)
    if differ := differences(known, settings, FIXED):
        raise UsageError(f"{earlier} measured other things than this run would: it has {'; '.join(differ)}")
    there = {(row["case"], row["configuration"]) for row in read_rows(earlier)}
    if not there & planned:
        names, theirs = ({name for _, name in pairs} for pairs in (planned, there))
        what = "case" if names & theirs else "configuration"
        raise UsageError(
            f"{earlier} has no {what} in common with this run, so there is nothing to compare: it has"
            f" {', '.join(sorted(theirs)) or 'no rows'}; this run has {', '.join(sorted(names))}"
        )


def same_machine(earlier: Row, settings: Row) -> bool:
    """Whether seconds and memory of two runs, by their settings, can be held against one another."""

    def place(run: Row) -> list[object]:
        known = run.get("environment")
        environment = known if isinstance(known, dict) else {}
        return [run.get("device"), run.get("workers"), *map(environment.get, ("processor", "gpu", "threads"))]

    return place(earlier) == place(settings)


def spread(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """The first cases of every kind in turn, at most `limit`, in the benchmark's own order."""
    if limit is None or limit >= len(cases):
        return list(cases)
    turn: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for place, case in enumerate(cases):
        turn[case.kind] = turn.get(case.kind, -1) + 1
        order.append((turn[case.kind], place))
    return [cases[place] for place in sorted(place for _, place in sorted(order)[:limit])]


def environment() -> dict[str, str]:
    """Versions and machine, as a report names them."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    for package in ("torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "sfumato": sfumato.__version__, "threads": str(torch.get_num_threads())}


def attempt(benchmark: Benchmark, model: Model, job: Job, out: Path) -> Row:
    """One row: tried, measured, its images written."""
    case, configuration = job
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = benchmark.attempt(model, case, configuration)
    except NotApplicable as reason:
        return {**_named(case, configuration), "status": "not applicable", "error": short(str(reason)), "figures": {}}
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 - whatever one case does, it costs its row and not the others
        return _error_row(case, configuration, f"{type(error).__name__}: {error}")
    images: dict[str, str] = {}
    for role, image in outcome.pictures.items():
        shared = role in {"source", "truth", "second"}
        name = role if shared else f"{safe_name(configuration.name)}-{role}"
        path = out / "pictures" / safe_name(case.name) / f"{name}.png"
        images[role] = path.relative_to(out).as_posix()
        if not (shared and path.is_file()):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(image, path)
    figures = {name: finite(value) for name, value in outcome.figures.items()}
    return {
        **_named(case, configuration),
        "status": "done",
        "title": short(case.title),
        "figures": figures,
        "pictures": images,
        "notes": [short(note) for note in outcome.notes],
        "took": round(time.perf_counter() - start, 3),
    }


def _named(case: Case, configuration: Configuration) -> Row:
    return {
        "case": case.name,
        "kind": case.kind,
        "configuration": configuration.name,
        "method": configuration.method,
        "inversion": configuration.inversion,
    }


def _error_row(case: Case, configuration: Configuration, error: str) -> Row:
    return {**_named(case, configuration), "status": "error", "error": short(error), "figures": {}}


def _here(benchmark: Benchmark, jobs: Sequence[Job], model: Model, out: Path) -> Iterator[Row]:
    for job in jobs:
        yield attempt(benchmark, model, job, out)


def _begin(benchmark: Benchmark, load: Load, out: Path) -> tuple[None, Callable[[Job], Row]]:
    torch.set_num_threads(1)
    model = load()
    benchmark.prepare(model)
    return None, lambda job: attempt(benchmark, model, job, out)


def _in_processes(benchmark: Benchmark, jobs: Sequence[Job], load: Load, out: Path, workers: int) -> Iterator[Row]:
    with Processes(partial(_begin, benchmark, load, out)) as crew:
        for (case, configuration), row in run_jobs(crew, [[job] for job in jobs], workers=workers):
            yield _error_row(case, configuration, str(row)) if isinstance(row, Died) else row


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
