"""`sfumato batch` with real workers: kills, Ctrl-C, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sfumato.api.batch_work import Begin
from sfumato.errors import UsageError
from sfumato.run.rows import ROWS
from tests.run.here import Here

ROOT = Path(__file__).parents[2]
MANIFEST = """image,source_prompt,target_prompt,option.strength
cat.png,a cat,a dog,
cat.png,a cat,a red dog,
cat.png,a cat,a dog,0.5
cat.png,a cat,a blue house,0.9
gone.png,a cat,a dog,
cat.png,a cat,a dog,7
"""


@pytest.fixture
def manifest(folder: Path, cat: Path) -> Path:
    (folder / "edits.csv").write_text(MANIFEST)
    return Path("edits.csv")


def options(toy: Path, out: str) -> list[str]:
    return ["--out", out, "--model", str(toy), "--device", "cpu", "--method", "sdedit", "--steps", "2"]


def start(*args: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sfumato", "batch", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / ROWS).read_text().splitlines()]


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "images").glob("[!.]*")}


def children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = status.read_text().rpartition(")")
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(rest.split()[1]) == pid and b"spawn_main" in command:
            found.append(int(status.parent.name))
    return found


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for workers in /proc")
def test_workers_and_driver_that_are_killed_change_nothing(
    run: Any, manifest: Path, toy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "killed"
    driver = start(manifest, *options(toy, "killed"))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (out.is_dir() and (early := files(out))):
        time.sleep(0.05)
    for worker in children(driver.pid):
        os.kill(worker, signal.SIGKILL)
    driver.kill()
    driver.communicate()
    assert len(rows(out)) < 6

    crews: list[Here] = []

    def hired(begin: Begin, environments: object) -> Here:
        crews.append(Here(begin))
        return crews[-1]

    monkeypatch.setattr("sfumato.api.batch.Processes", hired)
    result = run("batch", manifest, *options(toy, "killed"), "--workers", 2, "--report", code=1)
    assert "4 of 6 done, 2 failed, 0 left" in result.stdout
    assert "a red dog" in (out / "report.html").read_text()
    assert len(files(out)) == 4
    assert early.items() <= files(out).items()
    items = [row["item"] for row in rows(out)]
    assert len(items) == len(set(items)) == 6

    answer = run("batch", manifest, *options(toy, "killed"), code=1).stdout
    assert "nothing to do: 4 of 6 done" in answer
    assert len(crews) == 1  # none for the run that had nothing to do
    assert "4 of 6 done" in run("batch", "--status", "killed").stdout


def test_a_dry_run_writes_nothing(run: Any, manifest: Path, toy: Path, folder: Path) -> None:
    before = sorted(folder.iterdir())
    answer = json.loads(run("batch", manifest, *options(toy, "out"), "--dry-run", "--json").stdout)
    assert sorted(folder.iterdir()) == before
    assert (answer["items"], answer["broken"], answer["runs"]) == (6, 2, 3)
    assert answer["seconds"] > 0
    assert "4 of 6" not in run("batch", manifest, *options(toy, "out"), "--dry-run").stdout


def test_a_batch_on_ray_is_made_by_actors(
    run: Any, manifest: Path, toy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.run import ray_crew

    def actors(begin: object, address: str) -> None:
        raise UsageError(f"actors at {address}")

    monkeypatch.setattr(ray_crew, "check_cluster", lambda address: None)
    monkeypatch.setattr(ray_crew, "RayCrew", actors)
    assert "actors at host:6379" in run("batch", manifest, *options(toy, "out"), "--ray", "host:6379", code=2).stderr


@pytest.mark.long
def test_the_first_signal_finishes_what_runs(manifest: Path, toy: Path, folder: Path, run: Any) -> None:
    driver = start(manifest, *options(toy, "out"), "--set", "strength=1.0", "--steps", "60", "--json")
    settings, deadline = folder / "out" / "run.json", time.monotonic() + 600
    while time.monotonic() < deadline and not (settings.is_file() and 'revision": "' in settings.read_text()):
        time.sleep(0.05)
    time.sleep(0.1)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 143, err
    assert "finishing what runs" in err
    answer = json.loads(out)
    assert 0 < answer["done"] < 4
    assert answer["left"] == 4 - answer["done"]
    assert not list((folder / "out" / "images").glob(".*"))
    assert json.loads(run("batch", "--status", "out", "--json").stdout)["runs"] is False


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give a manifest, a folder or images"),
        (["edits.csv"], "give --out FOLDER"),
        (["edits.csv", "--out", "out", "--shard", "3/2"], "--shard must be K/N"),
        (["edits.csv", "--out", "out", "--method", "sdeddit"], "did you mean 'sdedit'"),
        (["edits.csv", "--out", "out", "--set", "strenght=1", "--method", "sdedit"], "did you mean 'strength'"),
        (["edits.csv", "--out", "out", "--seed", "-1"], "another one each time"),
        (["edits.csv", "--out", "out", "--name", "{stem}.xyz"], "--name must end in"),
        (["edits.csv", "--out", "out", "--gpus", "all"], "no CUDA device"),
        (["edits.csv", "--out", "out", "--ray", "here"], "--ray must be auto or HOST:PORT"),
        (["edits.csv", "--out", "out", "--ray", "auto", "--gpus", "all"], "leave out --gpus"),
        ([".", "--out", "out"], "lies in"),
        (["edits.txt", "--out", "out"], "there is no edits.txt"),
        (["--status", "nowhere"], "holds no batch"),
    ],
)  # fmt: skip
def test_what_is_refused(run: Any, manifest: Path, folder: Path, args: list[str], message: str) -> None:
    assert message in run("batch", *args, code=2).stderr
    assert not (folder / "out").exists()
