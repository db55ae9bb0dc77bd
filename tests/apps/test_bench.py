"""`sfumato bench` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.apps.conftest import Run


def test_measures_reports_and_goes_on(run: Run, folder: Path) -> None:
    arguments = ["bench", "emoji-edit", "--limit", 20, "--steps", 1, "--out", "first", "--json"]
    answer = json.loads(run(*arguments, "--methods", "unedited,sdedit,prompt-to-prompt").stdout)
    rows = [json.loads(line) for line in (folder / "first" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 60
    assert {row["status"] for row in rows} == {"done", "not applicable"}
    assert len({row["kind"] for row in rows}) == 10
    assert {one["configuration"] for one in answer["summaries"]} == {"unedited", "sdedit", "prompt-to-prompt/direct"}
    assert (folder / "first" / "report.html").is_file()
    assert (folder / "first" / "rows.parquet").is_file()

    before = (folder / "first" / "rows.jsonl").read_bytes()
    again = json.loads(run(*arguments, "--methods", "unedited,sdedit", "--compare", "first").stdout)
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
        (["emoji-edit", "--out", "cat.png/run", "--methods", "unedited"], "cannot write to"),
        (["pie"], "mapping_file.json"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, cat: Path, arguments: list[Any], complaint: str) -> None:
    result = run("bench", *arguments, code=2)
    assert complaint in result.stderr
