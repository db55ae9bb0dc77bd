"""A batch makes each item once, whatever dies; equal to single edits; what goes wrong with an item costs its row."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.api.batch import Batch, Options, run_batch
from sfumato.api.batch_estimate import estimate
from sfumato.api.batch_items import Settings
from sfumato.api.batch_progress import Progress
from sfumato.api.batch_work import Begin, Task, Worker
from sfumato.api.manifest import Line
from sfumato.api.recipe import Recipe
from sfumato.edits.method import METHODS
from sfumato.errors import ImageError, SfumatoError, UsageError
from sfumato.files import locked
from sfumato.run.rows import LOCK, ROWS
from tests.run.here import Here
from tests.served import DIFFUSION, on

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "method": "sdedit", "options": {"strength": 0.5}}
TEXTS = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}


def picture(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three images."""
    for seed, name in enumerate(("a", "b", "c")):
        picture(tmp_path / f"{name}.png", seed)
    return tmp_path


class Runs:
    """Runs batches of a folder with one model, in this process."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder, self.model, self.out = folder, model, folder / "out"
        self.jobs: list[Task] = []

    def __call__(self, rows: Sequence[dict[str, Any]], **given: Any) -> Batch:
        dies: Callable[[Any], str] = given.pop("dies", lambda _: "")
        revision, defaults = given.pop("revision", self.model.revision), given.pop("defaults", {**TEXTS, **QUICK})
        name, outside = given.pop("name", "{stem}-{target}.png"), given.pop("outside", False)
        settings = Settings({"name": given.pop("model", "toy")}, self.folder, outside, name)
        calls = {key: given.pop(key) for key in ("stopping", "tick") if key in given}
        lines = [Line(number, row) for number, row in enumerate(rows, start=1)]

        def hire(begin: Begin) -> Here:
            facts = {"revision": revision, "dtype": "float32", "device": "cpu", "notes": []}
            crew = Here(lambda: (facts, Worker(self.model, begin.images)), dies)
            self.jobs = crew.jobs
            return crew

        self.jobs = []
        out = given.pop("out", self.out)
        return run_batch(lines, defaults, settings, out, Options(**given), hire=hire, **calls)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / ROWS).read_text().splitlines()]

    def files(self, out: Path | None = None) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(((out or self.out) / "images").iterdir())}


@pytest.fixture
def runs(folder: Path, toy_model: Any) -> Runs:
    return Runs(folder, toy_model)


GOOD = [{"image": f"{name}.png", "target_prompt": target} for name in "abc" for target in ("a dog", "a red dog")]
BAD = [
    {"image": "gone.png"},
    {"image": "a.png", "option.strength": 5},
    {"image": "a.png", "guidance_scale": "strong"},
    {"image": "a.png", "method": "sdeddit"},
    {"image": "/etc/passwd"},
    {"image": "a.png", "num_frames": 5},
]


def test_what_is_wrong_with_an_item_costs_its_row(runs: Runs) -> None:
    progress = runs([*BAD[:3], *GOOD, *BAD[3:]]).progress
    assert (progress.items, progress.done, progress.failed, progress.left) == (12, 6, 6, 0)
    rows = runs.rows()
    errors = {row["line"]: row["error"] for row in rows if row["status"] == "error"}
    for line, words in (
        (1, "there is no file"),
        (2, "strength must be in"),
        (3, "guidance_scale must be a number"),
        (10, "did you mean 'sdedit'"),
        (11, "outside"),
        (12, "'num_frames' of edit"),
    ):
        assert words in errors[line], errors
    assert sorted(runs.files()) == sorted(Path(row["image"]).name for row in rows if row["status"] == "done")


def test_files_that_are_no_images_and_ways_out_of_the_folder_cost_their_row(runs: Runs) -> None:
    folder = runs.folder / "shelf"
    folder.mkdir()
    picture(folder / "a.png", 0)
    picture(runs.folder / "secret.png", 1)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("a cat")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(runs.folder / "secret.png")
    names = ["cut.png", "empty.png", "text.png", "folder.png", "link.png", "../secret.png", "", "a.png\0", "a.png"]
    runs.folder = folder
    progress = runs([{"image": name, "id": "the same"} for name in names]).progress
    assert (progress.done, progress.failed) == (1, 8)
    errors = {row["line"]: row["error"] for row in runs.rows() if row["status"] == "error"}
    assert all("\n" not in error and "Traceback" not in error for error in errors.values())
    for line, name in enumerate(names[:4], start=1):
        assert name in errors[line], errors[line]
    for line in (5, 6):
        assert "outside" in errors[line], errors[line]


def test_nothing_is_done_twice(runs: Runs) -> None:
    runs([*GOOD, *BAD])
    before, files = runs.rows(), runs.files()
    progress = runs([*GOOD, *BAD]).progress
    assert runs.jobs == []
    assert (progress.before, progress.done, progress.failed) == (12, 6, 6)
    assert runs.rows() == before
    picture(runs.folder / "gone.png", 9)
    assert runs([*GOOD, *BAD]).progress.done == 7  # it is another item now: its image is there
    assert runs([*GOOD, *BAD], retry_errors=True).progress.failed == 5
    assert {name: data for name, data in runs.files().items() if name in files} == files


def test_targets_of_an_image_are_one_run_and_each_image_has_its_own_recipe(runs: Runs) -> None:
    runs(GOOD)
    assert [len(task.items) for task in runs.jobs] == [2, 2, 2]
    recipe = Recipe.read(runs.out / "images" / "a-a-red-dog.png")
    assert recipe.request.targets == ("a red dog",)  # type: ignore[attr-defined]
    given = {**TEXTS, "num_inference_steps": 2, "guidance_scale": 3.0, "method": "sdedit", "strength": 0.5}
    alone = sfumato.edit(runs.model, runs.folder / "a.png", **{**given, "target_prompt": "a red dog"})
    with Image.open(runs.out / "images" / "a-a-red-dog.png") as image:
        assert np.abs(np.asarray(image, int) - np.asarray(alone.image, int)).max() <= 1


SETS: dict[str, dict[str, Any]] = {
    "delta-denoising": {"iterations": 2},
    "langevin": {"energy": {"stay-near": 1.0}, "num_langevin_steps": 2},
    "auto": {"tries": 2, "draws": 1},
}


@pytest.mark.parametrize("method", on(DIFFUSION, METHODS))
def test_a_batch_gives_what_single_edits_give(runs: Runs, method: str) -> None:
    options = SETS.get(method, {})
    rows = [{"image": "a.png", "target_prompt": target} for target in ("a photo of a dog", "a photo of a red cat")]
    defaults = {**TEXTS, "num_inference_steps": 2, "guidance_scale": 3.0, "method": method, "options": options}
    batch = runs(rows, defaults=defaults)
    assert batch.progress.done == 2, runs.rows()
    for row, made in zip(rows, sorted(runs.files().items()), strict=True):
        given = {**defaults, **row, "image": runs.folder / "a.png"}
        alone = sfumato.edit(runs.model, given.pop("image"), **given.pop("options"), **given)
        with Image.open(runs.out / "images" / made[0]) as image:
            assert np.abs(np.asarray(image, int) - np.asarray(alone.image, int)).max() <= 1  # by rounding
        request = Recipe.read(runs.out / "images" / made[0]).request.to_json()
        assert request == {name: alone.recipe[name] for name in request}


def test_edits_of_an_image_share_its_inversion_and_change_nothing(runs: Runs) -> None:
    rows = [{"image": "a.png", "option.strength": share} for share in (1.0, 0.5)]
    defaults = {**TEXTS, "num_inference_steps": 4, "method": "edit-friendly"}
    batch = runs(rows, defaults=defaults, name="{index}.png")
    first, second = (row["figures"]["evaluations"] for row in runs.rows())
    alone = sfumato.edit(
        runs.model, runs.folder / "a.png", **{**TEXTS, "num_inference_steps": 4}, method="edit-friendly", strength=0.5
    )
    assert batch.progress.done == 2
    assert second < min(alone.cost.evaluations, first)
    with Image.open(runs.out / "images" / "2.png") as image:
        assert image.tobytes() == alone.image.tobytes()  # the draws go on where the inversion's left off


def test_equal_items_are_made_once(runs: Runs) -> None:
    (runs.folder / "copy.png").write_bytes((runs.folder / "a.png").read_bytes())
    rows = [{"image": "a.png"}, {"image": "b.png"}, {"image": "copy.png"}, {"image": "a.png", "id": "again"}]
    progress = runs(rows).progress
    assert [len(task.items) for task in runs.jobs] == [1, 1]
    assert (progress.done, progress.same) == (4, 2)
    files = runs.files()
    first, again = "a-a-photo-of-a-dog.png", f"a-a-photo-of-a-dog-{runs.rows()[0]['key'][:8]}.png"
    assert files[first] == files[again] == files["copy-a-photo-of-a-dog.png"] != files["b-a-photo-of-a-dog.png"]
    assert [row.get("same_as") for row in runs.rows()].count(first) == 2
    before = runs.rows()
    (runs.out / ROWS).write_text("".join(json.dumps(row) + "\n" for row in before if row["item"] != again))
    runs(rows)
    assert runs.jobs == []
    assert sorted(row["item"] for row in runs.rows()) == sorted(row["item"] for row in before)


def test_an_image_without_its_row_is_adopted_and_a_damaged_one_made_again(runs: Runs) -> None:
    runs(GOOD)
    files, rows = runs.files(), runs.rows()
    (runs.out / ROWS).write_bytes((runs.out / ROWS).read_bytes()[:-20])  # in the middle of the last row
    damaged = runs.out / rows[0]["image"]
    damaged.write_bytes(damaged.read_bytes()[:200])
    (runs.out / ROWS).write_text("".join(f"{line}\n" for line in (runs.out / ROWS).read_text().splitlines()[1:-1]))
    progress = runs(GOOD).progress
    assert (progress.before, progress.adopted, progress.done) == (4, 1, 6)
    assert [len(task.items) for task in runs.jobs] == [2]  # whole, so that its bytes are the same
    assert runs.files() == files
    assert sorted(row["item"] for row in runs.rows()) == sorted(row["item"] for row in rows)


def test_kills_change_nothing(runs: Runs) -> None:
    runs([*GOOD, *BAD])
    files, names = runs.files(), sorted(row["item"] for row in runs.rows())

    class Killed(Exception):
        pass

    for seed in range(4):
        chance, other = random.Random(seed), Runs(runs.folder, runs.model)
        other.out = runs.folder / f"killed-{seed}"

        def dies(_: object, chance: random.Random = chance) -> str:
            return chance.choice(["", "", "before", "after"])

        def tick(progress: Progress, chance: random.Random = chance) -> None:
            if chance.random() < 0.3:
                raise Killed

        for _ in range(20):
            try:
                progress = other([*GOOD, *BAD], dies=dies, tick=tick, retry_errors=True).progress
                if progress.left == 0 and progress.done == 6:
                    break
            except Killed:
                if (file := other.out / ROWS).is_file():
                    file.write_bytes(file.read_bytes()[: -chance.randrange(1, 400)])
        other([*GOOD, *BAD])
        assert other.files() == files
        done = [row["item"] for row in other.rows() if row["status"] == "done"]
        assert len(done) == len(set(done)) == 6
        assert sorted({row["item"] for row in other.rows()}) == names


def test_an_item_that_kills_its_workers_becomes_an_error_row(runs: Runs) -> None:
    progress = runs(GOOD, dies=lambda task: "before" if task.items[0].name.startswith("b") else "").progress
    assert (progress.done, progress.failed, progress.standing.restarts) == (4, 2, 3)
    assert {row["error"] for row in runs.rows() if row["status"] == "error"} == {
        "3 workers died on it (killed by signal 9)"
    }
    assert runs(GOOD).progress.failed == 2
    assert runs(GOOD, retry_errors=True).progress.done == 6


def test_one_target_that_cannot_be_does_not_cost_the_others(runs: Runs) -> None:
    rows = [{"image": "a.png", "target_prompt": target} for target in ("a dog", "a cat and <lora:x:1>", "a fox")]
    progress = runs(rows).progress
    assert (progress.done, progress.failed) == (2, 1), runs.rows()


def test_images_that_vanish_or_change_become_error_rows(runs: Runs) -> None:
    def tick(progress: Progress) -> None:
        (runs.folder / "b.png").unlink(missing_ok=True)
        picture(runs.folder / "c.png", 7)

    assert (progress := runs(GOOD, tick=tick).progress).failed == 4
    assert progress.done == 2
    errors = {row["error"] for row in runs.rows() if row["status"] == "error"}
    assert any("b.png" in error and "there is no file" in error for error in errors)
    assert any("c.png has changed since the batch was begun" in error for error in errors)


def test_a_full_disk_ends_the_batch_and_it_goes_on(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato import images

    def full(*_: Any, **__: Any) -> None:
        raise ImageError("cannot write it: No space left on device; free some space")

    monkeypatch.setattr(images, "save_image", full)
    with pytest.raises(SfumatoError, match=r"No space left on device.*the same command goes on"):
        runs(GOOD)
    assert runs.rows() == []
    monkeypatch.undo()
    assert runs(GOOD).progress.done == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, which can be full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("free", [0, 8, 16, 24, 36, 52])
def test_a_disk_that_is_really_full_loses_nothing(runs: Runs, small_disk: Path, free: int) -> None:
    """Whatever is written as the last byte finds its place, in kB: settings, an image, or a row."""
    runs.out, filler = small_disk / "out", small_disk / "filler"
    filler.write_bytes(bytes((256 - free) * 1024))
    with pytest.raises(SfumatoError, match="No space left on device") as caught:
        runs(GOOD)
    assert "\n" not in str(caught.value)
    files = runs.files() if (runs.out / "images").is_dir() else {}
    done = {name: data for name, data in files.items() if Image.open(io.BytesIO(data)).load()}
    rows = runs.rows() if (runs.out / ROWS).exists() and (runs.out / ROWS).read_bytes().endswith(b"\n") else []
    assert {Path(row["image"]).name for row in rows} <= done.keys()
    filler.unlink()
    assert runs(GOOD).progress.done == 6
    assert done.items() <= runs.files().items()
    assert len({row["item"] for row in runs.rows()}) == len(runs.rows()) == 6
    whole = runs.folder / "whole"
    runs(GOOD, out=whole)
    assert runs.files() == runs.files(whole)


def test_what_depends_on_other_settings_is_refused(runs: Runs) -> None:
    runs(GOOD[:1])
    with pytest.raises(UsageError, match=r"holds a run with batch\.model\.name = 'toy', not 'other'"):
        runs(GOOD[:1], model="other")
    with pytest.raises(UsageError, match=r"batch\.name = "):
        runs(GOOD[:1], name="{key}.png")
    with pytest.raises(UsageError, match="was begun with revision toy of the model, and a worker has other"):
        runs(GOOD, revision="other")
    with locked(runs.out / LOCK), pytest.raises(UsageError, match="another process is running a batch in"):
        runs(GOOD)
    assert len(runs.rows()) == 1
    foreign = runs.folder / "foreign" / "images"
    foreign.mkdir(parents=True)
    (foreign / "mine.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="holds files of no batch"):
        runs(GOOD, out=foreign.parent)
    with pytest.raises(UsageError, match="unknown part of --name 'steem': did you mean 'stem'"):
        runs(GOOD, name="{steem}.png", out=runs.folder / "new")


def test_stopping_and_errors_to_stop_after(runs: Runs) -> None:
    progress = runs([*BAD, *GOOD], stop_after=6).progress
    assert (progress.failed, progress.done, progress.left) == (6, 0, 6)
    seen: list[int] = []
    progress = runs(GOOD, stopping=lambda: bool(seen), tick=lambda state: seen.extend([1] * (state.done > 0))).progress
    assert 0 < progress.done < 6
    assert runs(GOOD).progress.done == 6


def test_a_limit_and_shards(runs: Runs) -> None:
    assert runs(GOOD, limit=3).progress.items == 3
    parts = []
    for k in (1, 2):
        out = runs.folder / f"part-{k}"
        runs(GOOD, shard=(k, 2), out=out)
        parts.append(set(runs.files(out)))
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 6
    assert all(
        {f"{name}-a-dog.png", f"{name}-a-red-dog.png"} <= (parts[0] if f"{name}-a-dog.png" in parts[0] else parts[1])
        for name in "abc"
    )


def test_a_manifest_that_has_changed(runs: Runs) -> None:
    runs(GOOD[:2])
    before = runs.files()
    batch = runs([GOOD[0], {**GOOD[1], "seed": 5}, GOOD[2]])
    assert batch.gone == 1
    assert batch.progress.done == 3
    assert {name: data for name, data in runs.files().items() if name in before} == before
    assert len(runs.files()) == 4  # the changed row's image has its key in its name


def test_names_stay_in_the_folder_and_differ_on_any_system(runs: Runs) -> None:
    targets = ["A dog", "a DOG", "../../up", "con.", "ü" * 300, "a/b\\c:d*?", "{key}"]
    runs([{"image": "a.png", "target_prompt": target} for target in targets], name="{target}.png")
    names = list(runs.files())
    assert len({name.lower() for name in names}) == len(targets) == len(names)
    assert all(len(name) <= 140 and "/" not in name and not name.startswith(".") for name in names)


def test_morphs_are_items_too(runs: Runs) -> None:
    row = {"command": "morph", "images": ["a.png", "b.png"], "prompts": ["a cat", "a dog"], "method": "crossfade"}
    progress = runs(
        [{**row, "num_frames": 3}, {**row, "num_frames": 3, "images": ["a.png"]}, GOOD[0]],
        defaults={**TEXTS, "method": "prompt-to-prompt"},
    ).progress
    assert (progress.done, progress.failed) == (2, 1), runs.rows()
    assert Recipe.read(runs.out / "images" / "a-to-b.webp").request.command == "morph"


def test_a_dry_run_writes_nothing_and_says_what_it_takes(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.models.loading.load_model", lambda name, **_: runs.model)
    lines = [Line(k, row) for k, row in enumerate([*GOOD, GOOD[0], BAD[0]], start=1)]
    settings = Settings({"name": "toy"}, runs.folder)
    found = estimate(
        lines, {**TEXTS, **QUICK, "method": "prompt-to-prompt", "options": {}}, settings, runs.out, Options(workers=2)
    )
    assert not runs.out.exists()
    assert (found.items, found.equal, found.broken, found.runs, found.inversions) == (8, 1, 1, 3, 3)
    assert found.problems[0].startswith("line 8: ImageError: there is no file")
    batch = runs([*GOOD, GOOD[0], BAD[0]], defaults={**TEXTS, **QUICK, "method": "prompt-to-prompt", "options": {}})
    made = [row["figures"]["evaluations"] for row in runs.rows() if "figures" in row and "same_as" not in row]
    assert found.evaluations == pytest.approx(sum(made))
    assert found.bytes == pytest.approx(sum(map(len, runs.files().values())), rel=0.5)
    assert batch.progress.done == 7
