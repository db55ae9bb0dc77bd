"""A run goes on where it was killed, costs a damaged case one row, and loses and doubles nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sfumato.bench.rows import ROWS, read_rows, write_parquet
from sfumato.bench.runner import run, spread
from sfumato.errors import Cancelled, UsageError
from sfumato.samplers.watch import Progress, Watch
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
    assert damaged["error"] == "ImageError: picture 3 is damaged"
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
def test_a_killed_run_goes_on(tmp_path: Path, workers: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, program, out, str(workers)], env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / ROWS).is_file() and (out / ROWS).read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = len(read_rows(out))
    assert 3 <= killed < 16

    benchmark = Small()
    configurations = benchmark.configurations([], [])
    rows = run(benchmark, configurations, out, load)
    assert len(read_rows(out)) == len(rows) == 16
    assert plain(rows) == plain(run(benchmark, configurations, tmp_path / "whole", load))


def test_cancelling_keeps_what_is_done(tmp_path: Path) -> None:
    done: list[int] = []

    def progress(state: Progress) -> None:
        done.append(state.done)

    watch = Watch(progress=progress, cancelled=lambda: len(done) > 2)
    benchmark = Small(count=5)
    with pytest.raises(Cancelled):
        run(benchmark, benchmark.configurations(["whole"], []), tmp_path, load, watch=watch)
    assert len(read_rows(tmp_path)) == 2


def test_a_limit_is_spread_over_the_kinds() -> None:
    cases = Small(count=8).cases()
    assert [case.name for case in spread(cases, 3)] == ["00", "01", "02"]
    kinds = sorted(cases, key=lambda case: case.kind)
    assert [case.name for case in spread(kinds, 4)] == ["00", "02", "01", "03"]
    assert spread(cases, None) == spread(cases, 99) == list(cases)


def test_rows_become_a_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    benchmark = Small(count=4)
    rows = run(benchmark, benchmark.configurations(["whole"], []), tmp_path, load)
    path = write_parquet(tmp_path, rows)
    table = parquet.read_table(path).to_pylist()
    assert [row["error"] for row in table if row["status"] == "done"] == [0.0, 1.0, 2.0]
    assert [row["kept"] for row in table if row["status"] == "done"] == [20.0, 19.0, 18.0]
