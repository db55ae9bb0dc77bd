"""Jobs are done once, whoever dies; a job that kills its workers is given up; nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sfumato.errors import SfumatoError, UsageError
from sfumato.run.crew import Processes
from sfumato.run.jobs import Died, Standing, run_jobs
from tests.run.jobs import Square

ROOT = Path(__file__).parents[2]


def done_by(log: Path) -> list[tuple[int, int]]:
    return [(int(number), int(pid)) for number, pid in (line.split(":") for line in log.read_text().split())]


def test_each_job_is_done_once_and_a_group_by_one_worker(tmp_path: Path) -> None:
    log, facts = tmp_path / "log", []
    groups = [[1, 2, 3, 4], [5, 6, 7, 8]]
    with Processes(Square(log, pause=0.05)) as crew:
        found = dict(run_jobs(crew, groups, workers=2, ready=facts.append))
    assert found == {number: number * number for number in range(1, 9)}
    assert len({fact["pid"] for fact in facts}) == 2
    by = done_by(log)
    assert sorted(number for number, _ in by) == list(range(1, 9))
    for group in groups:
        first = next(pid for number, pid in by if number == group[0])
        assert dict(by)[group[1]] == first  # the rest may be taken over at the end


def test_a_worker_that_dies_is_replaced_and_its_job_done_again(tmp_path: Path) -> None:
    standings: list[Standing] = []
    with Processes(Square(tmp_path / "log", once=(2,))) as crew:
        found = dict(run_jobs(crew, [[1, 2, 3, 4]], workers=1, tick=standings.append))
    assert found == {1: 1, 2: 4, 3: 9, 4: 16}
    assert standings[-1].restarts == 1


def test_a_job_that_kills_three_workers_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Processes(Square(log, fatal=(3,))) as crew:
        found = dict(run_jobs(crew, [[1, 2, 3], [4, 5]], workers=2))
    assert {number: found[number] for number in (1, 2, 4, 5)} == {1: 1, 2: 4, 4: 16, 5: 25}
    assert isinstance(found[3], Died)
    assert str(found[3]).startswith("3 workers died on it (killed by signal 9")
    assert [number for number, _ in done_by(log)].count(3) == 3


def test_random_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    chance, kills = random.Random(0), []
    numbers = list(range(40))
    with Processes(Square(tmp_path / "log", pause=0.01)) as crew:
        found = []
        for number, square in run_jobs(crew, [numbers[k : k + 5] for k in range(0, 40, 5)], workers=2):
            found.append((number, square))
            if chance.random() < 0.15:
                kills.append(chance.choice(crew.pids))
                os.kill(kills[-1], signal.SIGKILL)
    assert kills
    assert sorted(number for number, _ in found) == numbers
    assert all(square == number * number for number, square in found)


def test_stopping_finishes_what_runs(tmp_path: Path) -> None:
    found: list[int] = []
    with Processes(Square(tmp_path / "log")) as crew:
        for number, _ in run_jobs(crew, [[1, 2, 3, 4]], workers=1, stopping=lambda: len(found) >= 2):
            found.append(number)
    assert found == [1, 2]


def test_what_a_worker_cannot_mend_ends_the_run(tmp_path: Path) -> None:
    with Processes(Square(tmp_path / "log", refuses=(2,))) as crew, pytest.raises(UsageError, match="2 is refused"):
        list(run_jobs(crew, [[1, 2, 3]], workers=1))
    with Processes(Square(tmp_path / "log", dies_at_once=True)) as crew:  # noqa: SIM117
        with pytest.raises(SfumatoError, match="3 workers in succession killed by signal 9"):
            list(run_jobs(crew, [[1]], workers=1))


def test_each_worker_has_its_environment_and_the_parent_keeps_its_own(tmp_path: Path) -> None:
    facts: list[dict[str, str]] = []
    with Processes(Square(tmp_path / "log", pause=0.2), [{"GPU": "3"}, {"GPU": "5"}]) as crew:
        list(run_jobs(crew, [[1], [2], [3]], workers=2, ready=facts.append))
    assert sorted(fact["gpu"] for fact in facts) == ["3", "5"]
    assert "GPU" not in os.environ


PROGRAM = """
    import sys
    from pathlib import Path
    from sfumato.run.crew import Processes
    from sfumato.run.jobs import run_jobs
    from tests.run.jobs import Square

    if __name__ == "__main__":
        with Processes(Square(Path(sys.argv[1]), pause=60)) as crew:
            list(run_jobs(crew, [[1]], workers=1))
"""


def test_workers_leave_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(textwrap.dedent(PROGRAM))
    parent = subprocess.Popen([sys.executable, program, log], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not log.exists():
        time.sleep(0.02)
    time.sleep(0.1)
    ((_, worker),) = done_by(log)
    parent.kill()
    parent.wait()
    while time.monotonic() < deadline and Path(f"/proc/{worker}").exists():
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
