"""A run goes on where it was killed, costs a damaged case one row, and loses and doubles nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sfumato.bench.benchmark import Case, Configuration, Outcome
from sfumato.bench.rows import cases_tried, read_rows, read_settings, write_parquet
from sfumato.bench.runner import run, same_machine, spread
from sfumato.errors import Cancelled, ImageError, SfumatoError, UsageError
from sfumato.files import locked
from sfumato.run.rows import LOCK, ROWS, SETTINGS
from sfumato.watch import Progress, Watch
from tests.bench.small import RevisedGaussian, Small, load

ROOT = Path(__file__).parents[2]


def plain(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(
        ({key: value for key, value in row.items() if key != "took"} for row in rows), key=lambda row: json.dumps(row)
    )


def test_every_case_under_every_configuration(tmp_path: Path) -> None:
    benchmark = Small()
    rows = run(benchmark, benchmark.configurations([], []), tmp_path, load)
    assert len(rows) == 16
    assert read_rows(tmp_path) == rows
    (damaged, _) = (row for row in rows if row["status"] == "error")
    assert damaged["error"] == "ImageError: image 3 is damaged"
    perfect = next(row for row in rows if (row["case"], row["configuration"]) == ("00", "half"))
    assert perfect["figures"] == {"error": 0.0, "kept": "inf"}
    assert (tmp_path / perfect["pictures"]["result"]).is_file()


def test_what_does_not_apply_says_so(tmp_path: Path) -> None:
    benchmark = Small(count=3)
    rows = run(benchmark, benchmark.configurations(["odd"], []), tmp_path, load)
    assert [row["status"] for row in rows] == ["not applicable", "done", "not applicable"]


def test_goes_on_without_doing_anything_twice(tmp_path: Path) -> None:
    log = tmp_path / "attempts"
    benchmark, out = Small(attempts=str(log)), tmp_path / "run"
    configurations = benchmark.configurations([], [])
    run(benchmark, configurations, out, load, limit=4)
    assert len(log.read_text().splitlines()) == 8
    rows = run(benchmark, configurations, out, load)
    assert len(log.read_text().splitlines()) == len(rows) == 16
    run(benchmark, configurations, out, load)
    assert len(log.read_text().splitlines()) == 16
    run(benchmark, configurations, out, load, retry_errors=True)
    assert len(log.read_text().splitlines()) == 18


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    benchmark = Small(count=3)
    configurations = benchmark.configurations(["whole"], [])
    before = run(benchmark, configurations, tmp_path, load)
    file = tmp_path / ROWS
    file.write_bytes(file.read_bytes()[:-20])
    assert len(read_rows(tmp_path)) == 2
    assert plain(run(benchmark, configurations, tmp_path, load)) == plain(before)
    assert len(file.read_text().splitlines()) == 3


def test_damage_in_the_middle_is_reported(tmp_path: Path) -> None:
    benchmark = Small(count=3)
    run(benchmark, benchmark.configurations(["whole"], []), tmp_path, load)
    file = tmp_path / ROWS
    file.write_text(file.read_text().replace('"case": "01"', '"case": 01'))
    with pytest.raises(UsageError, match="damaged in line 2"):
        read_rows(tmp_path)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(Small(count=2), Small().configurations([], []), tmp_path, load)
    with pytest.raises(UsageError, match="holds a run with settings"):
        run(Small(count=3), Small().configurations([], []), tmp_path, load)
    with pytest.raises(UsageError, match="revision = 'r1', not 'r2'"):
        run(Small(count=2), Small().configurations([], []), tmp_path, lambda: RevisedGaussian("r2"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        run(Small(count=2), Small().configurations([], []), tmp_path / "file" / "run", load)


def test_several_processes_give_the_same_rows(tmp_path: Path) -> None:
    benchmark = Small(count=4)
    configurations = benchmark.configurations([], [])
    alone = run(benchmark, configurations, tmp_path / "one", load)
    shared = run(benchmark, configurations, tmp_path / "two", load, workers=2)
    assert plain(shared) == plain(alone)


PROGRAM = """
    import sys
    from pathlib import Path
    from sfumato.bench.runner import run
    from tests.bench.small import Small, load

    if __name__ == "__main__":
        benchmark = Small(pause=0.15)
        run(benchmark, benchmark.configurations([], []), Path(sys.argv[1]), load, workers=int(sys.argv[2]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_is_one_processs_own_until_it_is_killed_and_then_goes_on(tmp_path: Path, workers: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, program, out, str(workers)], env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / ROWS).is_file() and (out / ROWS).read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    loaded: list[bool] = []

    def loading() -> RevisedGaussian:
        loaded.append(True)
        return load()

    with pytest.raises(UsageError, match=r"another process is running a benchmark in .*run: wait for it to end"):
        run(Small(), Small().configurations([], []), out, loading)
    assert not loaded  # refused before anything heavy
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = len(read_rows(out))
    assert 3 <= killed < 16

    benchmark = Small()
    configurations = benchmark.configurations([], [])
    rows = run(benchmark, configurations, out, load)
    kept = [(row["case"], row["configuration"]) for row in read_rows(out)]
    assert len(kept) == len(set(kept)) == len(rows) == 16
    assert plain(rows) == plain(run(benchmark, configurations, tmp_path / "whole", load))
    assert not (out / LOCK).exists()  # it went with the process, and that of this one with the run


def test_cancelling_keeps_what_is_done(tmp_path: Path) -> None:
    done: list[int] = []

    def progress(state: Progress) -> None:
        done.append(state.done)

    watch = Watch(progress=progress, cancelled=lambda: len(done) > 2)
    benchmark = Small(count=5)
    with pytest.raises(Cancelled):
        run(benchmark, benchmark.configurations(["whole"], []), tmp_path, load, watch=watch)
    assert len(read_rows(tmp_path)) == 2


def test_seconds_of_another_machine_are_known_as_such(tmp_path: Path) -> None:
    run(Small(count=1), [Configuration("whole")], tmp_path, load)
    settings = read_settings(tmp_path)
    assert same_machine(settings, settings)
    others = [{"device": "cuda"}, {"workers": 2}, {"environment": {**settings["environment"], "processor": "another"}}]
    assert not any(same_machine(settings | other, settings) for other in [*others, {"environment": None}])


def test_a_limit_is_spread_over_the_kinds() -> None:
    cases = Small(count=8).cases()
    assert [case.name for case in spread(cases, 3)] == ["00", "01", "02"]
    kinds = sorted(cases, key=lambda case: case.kind)
    assert [case.name for case in spread(kinds, 4)] == ["00", "02", "01", "03"]
    assert spread(cases, None) == spread(cases, 99) == list(cases)


def test_cases_are_told_by_the_configurations_that_tried_them() -> None:
    rows = [("a", "1"), ("a", "2"), ("b", "2")]
    tried = cases_tried([{"configuration": name, "case": case} for name, case in rows])
    assert tried == {"a": {"1", "2"}, "b": {"2"}}


def test_rows_become_a_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    benchmark = Small(count=4)
    rows = run(benchmark, benchmark.configurations(["whole"], []), tmp_path, load)
    path = write_parquet(tmp_path, rows)
    table = parquet.read_table(path).to_pylist()
    assert [row["error"] for row in table if row["status"] == "done"] == [0.0, 1.0, 2.0]
    assert [row["kept"] for row in table if row["status"] == "done"] == [20.0, 19.0, 18.0]


def start(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> RevisedGaussian:
        raise ImageError("no model")

    with pytest.raises(ImageError, match="no model"):
        run(Small(), Small().configurations([], []), tmp_path / "run", fail)
    assert not (tmp_path / "run").exists()
    run(Small(count=1), Small().configurations([], []), tmp_path / "run", load)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("r*.*") if path.suffix != ".parquet"}
    with locked(tmp_path / "run" / LOCK), pytest.raises(UsageError, match="another process"):
        run(Small(count=1), Small().configurations([], []), tmp_path / "run", load)
    with pytest.raises(UsageError, match=r"holds a run with settings\.count = 1, not 2"):
        run(Small(count=2), Small().configurations([], []), tmp_path / "run", load)
    assert before == {path: path.read_bytes() for path in before}


def test_a_configuration_named_twice_is_tried_once(tmp_path: Path) -> None:
    rows = run(Small(count=2), [Configuration("whole"), Configuration("whole")], tmp_path, load)
    assert len(rows) == len(read_rows(tmp_path)) == 2


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, IndexError, MemoryError, RecursionError])
def test_whatever_a_case_raises_costs_its_row_alone(tmp_path: Path, error: type[Exception]) -> None:
    class Broken(Small):
        def attempt(self, model: Any, case: Case, configuration: Configuration) -> Outcome:
            if case.data == 1:
                raise error("half a character: \ud800, and a very long story" + 10_000 * "!")
            return super().attempt(model, case, configuration)

    rows = run(Broken(count=3), [Configuration("whole")], tmp_path, load)
    assert [row["status"] for row in rows] == ["done", "error", "done"]
    assert rows[1]["error"].startswith(error.__name__)
    assert read_rows(tmp_path) == rows


def test_names_of_cases_stay_inside_the_run(tmp_path: Path) -> None:
    names = ["..", ".", "../../x", "a/b", "a-b", "C:\\x", "n" * 300, "n" * 301, "\0", "", "ü", "con"]

    @dataclass
    class Named(Small):
        count: int = len(names)

        def cases(self) -> list[Case]:
            return [Case(name, "all", 4 + k, name) for k, name in enumerate(names)]

    rows = run(Named(), [Configuration("whole")], tmp_path / "run", load)
    assert [row["status"] for row in rows] == ["done"] * len(names)
    sources = [row["pictures"]["source"] for row in rows]
    assert len(set(sources)) == len(names)
    assert all((tmp_path / "run" / source).resolve().parts[-4:-2] == ("run", "pictures") for source in sources)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


GOOD = {
    "case": "00",
    "kind": "odd",
    "configuration": "whole",
    "status": "done",
    "figures": {"error": 1.0, "kept": "inf"},
}


@pytest.mark.parametrize(
    "row",
    [
        5, None, [], "row", [GOOD], {}, {**GOOD, "figures": []}, {**GOOD, "figures": {"error": "much"}},
        {**GOOD, "figures": {"error": True}}, {**GOOD, "figures": {"error": [1]}}, {**GOOD, "status": "well"},
        {**GOOD, "case": 5}, {**GOOD, "configuration": None}, {**GOOD, "kind": ["odd"]}, {**GOOD, "notes": "a note"},
        {**GOOD, "pictures": {"source": "../../secret.png"}}, {**GOOD, "pictures": {"source": "/etc/passwd"}},
        {**GOOD, "pictures": {"source": "C:\\secret.png"}}, {**GOOD, "pictures": {"source": 5}}, {**GOOD, "more": 1},
        {**GOOD, "title": "x" * 10**6}, {key: value for key, value in GOOD.items() if key != "figures"},
        '{"case": NaN}', '{"figures": {"error": 1e999}}', "[" * 100_000, '{"case": "\\ud800"}', "9" * 10_000, "\xff",
    ],
)  # fmt: skip
def test_rows_that_are_none_are_refused_by_their_line(tmp_path: Path, row: Any) -> None:
    text = row if isinstance(row, str) and row != "row" else json.dumps(row)
    (tmp_path / ROWS).write_bytes(json.dumps(GOOD).encode() + b"\n" + text.encode("latin-1") + b"\n")
    with pytest.raises(UsageError, match=r"rows\.jsonl is damaged in line 2 .*remove that line") as caught:
        read_rows(tmp_path)
    assert len(str(caught.value)) < 600


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / ROWS).open("wb") as file:
        file.write(json.dumps(GOOD).encode() + b"\n")
        file.truncate(10**12)  # a terabyte of zeros, none of them on the disk
    with pytest.raises(UsageError, match="damaged in line 2"):
        read_rows(tmp_path)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name, message in ((ROWS, "not a regular file"), (SETTINGS, "")):
        folder = tmp_path / name
        folder.mkdir()
        os.mkfifo(folder / name)
        for read in (read_rows, read_settings):
            with pytest.raises(UsageError, match="holds no benchmark run"):
                read(folder)
        if message:
            with pytest.raises(UsageError, match=message):
                run(Small(count=1), [Configuration("whole")], folder, load)
        else:
            assert len(run(Small(count=1), [Configuration("whole")], folder, load)) == 1  # a file takes its place


@pytest.mark.parametrize("text", ["", "[]", "5", "[" * 100_000, '{"benchmark": NaN}', "\xff"])
def test_settings_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    run(Small(count=1), [Configuration("whole")], tmp_path, load)
    (tmp_path / SETTINGS).write_bytes(text.encode("latin-1"))
    for read in (read_settings, lambda folder: run(Small(count=1), [Configuration("whole")], folder, load)):
        with pytest.raises(UsageError, match=r"holds no benchmark run \(run\.json"):
            read(tmp_path)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfumato.run.rows.os.fsync", full)
    with pytest.raises(SfumatoError, match="No space left on device"):
        run(Small(count=3), [Configuration("whole")], tmp_path / "run", load)
    monkeypatch.undo()
    assert len(run(Small(count=3), [Configuration("whole")], tmp_path / "run", load)) == 3


Spoil = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("benchmark", "pie", "benchmark = 'pie', not 'small'"),
        ("settings", {"count": 12, "protocol": "strict"}, "settings.protocol = 'strict', not None"),
        ("settings", {"count": 3}, "settings.count = 3, not 12"),
        ("settings", None, "settings = None, not"),
        ("model", "sd15", "model = 'sd15'"),
        ("revision", "r2", "revision = 'r2', not 'r1'"),
        ("dtype", "float16", "dtype = 'float16'"),
    ],
)
def test_runs_that_measured_other_things_are_not_compared(tmp_path: Path, name: str, value: Any, message: str) -> None:
    benchmark = Small(count=12)
    run(benchmark, [Configuration("whole")], tmp_path / "old", load, limit=2)
    file = tmp_path / "old" / SETTINGS
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UsageError, match=message):
        run(benchmark, [Configuration("whole")], tmp_path / "new", load, earlier=tmp_path / "old")
    assert not (tmp_path / "new").exists()  # before the first case


def test_runs_without_a_case_or_configuration_in_common_are_refused_at_once(tmp_path: Path) -> None:
    run(Small(count=12), [Configuration("whole")], tmp_path / "old", load, limit=1)
    for configuration, cases, message in (
        ("half", None, "no configuration in common"),
        ("whole", ["07"], "no case in"),
    ):

        class Some(Small):
            def cases(self) -> list[Case]:
                return [case for case in super().cases() if cases is None or case.name in cases]  # noqa: B023

        with pytest.raises(UsageError, match=message):
            run(Some(count=12), [Configuration(configuration)], tmp_path / "new", load, earlier=tmp_path / "old")
    both = [Configuration("whole"), Configuration("half")]
    assert run(Small(count=12), both, tmp_path / "new", load, limit=1, earlier=tmp_path / "old")
