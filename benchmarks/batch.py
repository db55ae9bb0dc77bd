"""Proves and measures `sfumato batch` on real runs of the embedded model.

    python benchmarks/batch.py kills --kills 30    # 200 rows, 12 of them bad; SIGKILL of the batch and of its workers
    python benchmarks/batch.py rate                # two workers against one, on a machine with two free cores
    python benchmarks/batch.py driver              # what a row costs the driver

`kills` ends with an error if a file differs from those of a run that was let alone, or a row is lost or there twice.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "sfumato" / "emoji" / "examples"
TARGETS = {
    "cat": ("a cat on a blue background", "a dog on a blue background"),
    "dog": ("a dog on a blue background", "a cat on a blue background"),
    "owl": ("an owl on a red background", "a penguin on a red background"),
}
ROWS, BAD, WORKERS = 200, 12, 2


def make_manifest(folder: Path) -> Path:
    """200 rows on 188 images, each a little other than all others; every sixteenth row or so is bad."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(TARGETS)
    wrong = ({"image": "gone.png"}, {"option.strength": "5"}, {"method": "sdeddit"}, {"guidance_scale": "strong"})
    with (folder / "manifest.csv").open("w", newline="") as file:
        columns = ["id", "image", "source_prompt", "target_prompt", "method", "option.strength", "guidance_scale"]
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for k in range(ROWS):
            name = names[k % len(names)]
            source, target = TARGETS[name]
            image = Image.open(EXAMPLES / f"{name}.png").convert("RGB")
            image.putpixel((0, 0), (k, 255 - k, k))
            image.save(folder / f"image-{k:03d}.png")
            row = {"id": k, "image": f"image-{k:03d}.png", "source_prompt": source, "target_prompt": target}
            row |= {"method": "sdedit", "option.strength": "0.6"}
            if k % (ROWS // BAD) == 7 and k // (ROWS // BAD) < BAD:
                row |= wrong[k // (ROWS // BAD) % len(wrong)]
            table.writerow(row)
    return folder / "manifest.csv"


def start(manifest: Path, out: Path, *more: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sfumato", "batch", manifest, "--out", out, "--steps", "2", *more]
    return subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    """Workers of a batch."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def result(out: Path) -> tuple[dict[str, bytes], Counter[str]]:
    """All files of images, temporary ones too, and how often each item has a row."""
    files = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    return files, Counter(json.loads(line)["item"] for line in (out / "rows.jsonl").read_text().splitlines())


def kills(folder: Path, count: int, seed: int) -> None:
    manifest, chance = make_manifest(folder / "input"), random.Random(seed)
    whole, out = folder / "whole", folder / "killed"
    code = start(manifest, whole, "--workers", WORKERS).wait()
    files, rows = result(whole)
    print(f"let alone: exit code {code}, {len(files)} images, {len(rows)} rows")
    done, batch = Counter[str](), start(manifest, out, "--workers", WORKERS)
    while sum(done.values()) < count:
        wait_for_rows(batch, out, chance.randint(0, 2 * ROWS // count))
        time.sleep(chance.uniform(0.0, 0.3))
        if batch.poll() is not None:  # it was through: what is left is thrown away in part, to go on
            drop(out, chance)
            batch = start(manifest, out, "--workers", WORKERS)
            continue
        workers, what = children(batch.pid), chance.choice(["worker", "batch", "all"])
        victims = {"worker": workers[:1], "batch": [batch.pid], "all": [batch.pid, *workers]}[what]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        done[what] += bool(victims)
        if what != "worker":
            batch.wait()
            batch = start(manifest, out, "--workers", WORKERS)
        print(f"kill {sum(done.values())}: {what}, {count_rows(out)} rows", flush=True)
    batch.wait()
    code = start(manifest, out, "--workers", WORKERS).wait()
    found, again = result(out)
    twice = [item for item, times in again.items() if times > 1]
    print(f"after {dict(done)}: exit code {code}, {len(found)} images, {len(again)} rows, {len(twice)} twice")
    assert code == 1
    assert found == files
    assert again.keys() == rows.keys()
    assert not twice


def count_rows(out: Path) -> int:
    file = out / "rows.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def wait_for_rows(batch: subprocess.Popen[bytes], out: Path, more: int) -> None:
    """Waits until the batch has written so many more rows, or is through; for none at all, until it has a worker."""
    wanted = count_rows(out) + more
    while batch.poll() is None and not (count_rows(out) >= wanted and children(batch.pid)):
        time.sleep(0.05)


def drop(out: Path, chance: random.Random) -> None:
    """Takes a third of the images away with their rows, and cuts what is left in the middle of its last line."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    gone = set(chance.sample(range(len(rows)), len(rows) // 3))
    for k in gone:
        if rows[k]["status"] == "done":
            (out / rows[k]["image"]).unlink()
    kept = "".join(json.dumps(row) + "\n" for k, row in enumerate(rows) if k not in gone)
    (out / "rows.jsonl").write_text(kept[: -chance.randrange(1, 100)])


def rate(folder: Path) -> None:
    manifest, rates = make_manifest(folder / "input"), dict[int, float]()
    for workers in (1, 2):
        out = folder / f"rate-{workers}"
        shutil.rmtree(out, ignore_errors=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        start(manifest, out, "--workers", workers).wait()
        seconds = json.loads((out / "progress.json").read_text())["seconds"]
        rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
        rates[workers] = (ROWS - BAD) / sum(row.get("took", 0.0) for row in rows) * workers
        print(f"{workers} at work: {rates[workers]:.2f} images a second; {seconds} s in all, with loading", flush=True)
    print(f"two workers have {rates[2] / rates[1]:.2f} times the rate of one")


def driver(folder: Path, count: int = 2_000) -> None:
    """Times a batch whose workers take no time at all."""
    from sfumato.api.batch import Options, run_batch
    from sfumato.api.batch_items import Settings
    from sfumato.api.batch_rows import done_row
    from sfumato.api.batch_work import Begin, Task
    from sfumato.api.manifest import Line
    from sfumato.run.crew import Event, Ready, Result

    class Idle:
        places = None

        def __init__(self) -> None:
            self.events: list[Event] = []

        def start(self, worker: int) -> None:
            self.events.append(Ready(worker, {"revision": "none"}))

        def send(self, worker: int, job: Task) -> None:
            for item in job.items:
                (out / "images" / item.name).touch()
            rows = [done_row(item, figures={}, notes=[], took=0.0, run=job.run) for item in job.items]
            self.events.append(Result(worker, rows))

        def wait(self, seconds: float) -> list[Event]:
            events, self.events = self.events, []
            return events

        def __enter__(self) -> Idle:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    make_manifest(folder / "input")
    lines = [
        Line(k, {"image": f"image-{k % ROWS:03d}.png", "source_prompt": "a", "target_prompt": "b", "seed": k})
        for k in range(count)
    ]
    out = folder / "driver"
    shutil.rmtree(out, ignore_errors=True)

    def hire(begin: Begin) -> Idle:
        return Idle()

    for what in ("a run", "the same again, with nothing to do"):
        wall, used = time.perf_counter(), time.process_time()
        run_batch(lines, {"method": "sdedit"}, Settings({"name": "emoji"}, folder / "input"), out, Options(), hire=hire)
        wall, used = time.perf_counter() - wall, time.process_time() - used
        print(f"{what}: {1e3 * used / count:.2f} ms of the processor an item, {1e3 * wall / count:.2f} ms in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "rate", "driver"))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("batch-proof"))
    given = parser.parse_args()
    if given.what == "kills":
        kills(given.folder, given.kills, given.seed)
    else:
        {"rate": rate, "driver": driver}[given.what](given.folder)
