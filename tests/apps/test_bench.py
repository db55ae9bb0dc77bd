"""`sfumato bench` as a user runs it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.apps.conftest import Run

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_measures_reports_and_goes_on(run: Run, folder: Path) -> None:
    arguments = ["bench", "emoji-edit", "--limit", 4, "--steps", 1, "--out", "first", "--json"]
    answer = json.loads(run(*arguments, "--methods", "unedited,prompt-to-prompt").stdout)
    rows = [json.loads(line) for line in (folder / "first" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert {row["status"] for row in rows} == {"done"}
    assert len({row["kind"] for row in rows}) == 4
    assert {one["configuration"] for one in answer["summaries"]} == {"unedited", "prompt-to-prompt/direct"}
    assert (folder / "first" / "report.html").is_file()
    assert (folder / "first" / "rows.parquet").is_file()

    before = (folder / "first" / "rows.jsonl").read_bytes()
    again = json.loads(run(*arguments, "--methods", "unedited,prompt-to-prompt", "--compare", "first").stdout)
    assert (folder / "first" / "rows.jsonl").read_bytes() == before  # nothing was left to do
    assert {change["verdict"] for change in again["changes"]} == {"same"}


def test_lists_what_there_is(run: Run) -> None:
    listed = run("bench").stdout
    assert all(name in listed for name in ("emoji-edit", "pie", "translation", "zero-shot"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["emojiedit"], "did you mean 'emoji-edit'"),
        (["emoji-edit", "--methods", "sdeditt"], "did you mean 'sdedit'"),
        (["emoji-edit", "--methods", "cycle-diffusion", "--inversions", "ddim"], "none of cycle-diffusion takes"),
        (["emoji-edit", "--protocol", "strict"], "does not take these options"),
        (["emoji-edit", "--compare", "nowhere"], "holds no benchmark run"),
        (["emoji-edit", "--set", "steps"], "--set takes name=value"),
        (["emoji-edit", "--set", "steps=" + "[" * 9999], "steps must be"),
        (["zero-shot", "--set", "trials=many"], "trials must be"),
        (["emoji-edit", "--out", "cat.png/run", "--methods", "unedited"], "cannot write to"),
        (["pie"], "mapping_file.json"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, cat: Path, arguments: list[Any], complaint: str) -> None:
    result = run("bench", *arguments, code=2)
    assert complaint in result.stderr


def small(run: Run, *arguments: Any, code: int = 0) -> Any:
    return run("bench", "emoji-edit", "--methods", "unedited", "--limit", 12, *arguments, code=code)


def test_compares_with_a_run_of_the_same_alone(run: Run, folder: Path) -> None:
    small(run, "--out", "old")
    shutil.copytree("old", "new")
    same = small(run, "--out", "new", "--compare", "old")
    assert "no difference is larger" in same.stderr
    for arguments, words in (
        (["--steps", 3], "settings.steps = None, not 3"),
        (["--seed", 3], "settings.seed = 0, not 3"),
        (["--methods", "autoencoder"], "no configuration in common"),
    ):
        refused = small(run, "--out", "other", "--compare", "old", *arguments, code=2)
        assert words in refused.stderr
        assert not (folder / "other").exists()

    lines = (folder / "old" / "rows.jsonl").read_text().splitlines()
    (folder / "old" / "rows.jsonl").write_text("".join(line + "\n" for line in lines[:3]))
    few = small(run, "--out", "new", "--compare", "old")
    assert "no difference is larger" in few.stderr  # equal in each of the three: that is known

    worse = [json.loads(line) for line in lines]
    for row in worse:
        row["figures"] = {name: None if value is None else value + 1 for name, value in row["figures"].items()}
    (folder / "old" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in worse[:9]))
    few = small(run, "--out", "new", "--compare", "old", "--json")
    assert {change["verdict"] for change in json.loads(few.stdout)["changes"]} == {"too few"}
    assert "9 cases in common are too few for a verdict" in small(run, "--out", "new", "--compare", "old").stderr
    (folder / "old" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in worse))
    assert "target_distance: better" in small(run, "--out", "new", "--compare", "old").stderr

    for row in worse:
        row["figures"] = {}
    (folder / "old" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in worse))
    nothing = small(run, "--out", "new", "--compare", "old", code=1)
    assert "nothing to compare" in nothing.stderr


def test_a_run_that_measured_nothing_fails(run: Run, folder: Path) -> None:
    Image.new("RGB", (96, 64)).save(folder / "wide.png")
    (folder / "pairs.json").write_text(json.dumps([{"first": "wide.png", "second": "wide.png"}] * 2))
    arguments = ["bench", "morphs", "--data", ".", "--methods", "crossfade", "--inversions", "even", "--out", "run"]
    failed = run(*arguments, code=1)
    assert "none of the 2 cases could be measured: ImageError: the image has 96x64 pixels" in failed.stderr
    assert (folder / "run" / "report.html").is_file()
    answer = run(*arguments, "--json", code=1)
    assert json.loads(answer.stdout)["summaries"][0]["errors"] == 2
    shutil.rmtree(folder / "run")
    (folder / "pairs.json").write_text(json.dumps([{"first": "wide.png", "second": "wide.png", "prompts": "a cat"}]))
    assert "prompts must be a list" in run(*arguments, code=2).stderr
    assert not (folder / "run").exists()


def test_a_stranger_in_a_run_is_one_line(run: Run, folder: Path) -> None:
    small(run, "--out", "run", "--limit", 1)
    rows = (folder / "run" / "rows.jsonl").read_text()
    for line in ("5", "[]", '{"case": "x"}', "[" * 9999):
        (folder / "run" / "rows.jsonl").write_text(rows + line + "\n")
        assert "damaged in line 2" in small(run, "--out", "run", "--limit", 1, code=2).stderr


def test_missing_judges_are_one_line(run: Run, folder: Path) -> None:
    (folder / "mapping_file.json").write_text(json.dumps({"1": {}}))
    failed = run("bench", "pie", "--data", ".", "--methods", "unedited", "--out", "run", code=1)
    lines = [line for line in failed.stderr.splitlines() if "not on this computer" in line]
    assert len(lines) == 1
    assert "hf download openai/clip-vit-large-patch14" in lines[0]
    assert "none of the 1 cases could be measured: ImageError" in failed.stderr
