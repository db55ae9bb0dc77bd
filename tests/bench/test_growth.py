"""The script that measures how cost grows, in a small form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth
from tests.toy import toy_sd_folder


def test_rows_grow_with_steps_and_targets(tmp_path: Path) -> None:
    arguments = ["--methods", "sdedit,prompt-to-prompt", "--axes", "steps,targets", "--points", "2", "--rounds", "1"]
    report = growth.main([str(toy_sd_folder(tmp_path / "toy")), *arguments, "--out", str(tmp_path)])
    assert json.loads((tmp_path / "growth.json").read_text()) == report
    rows = {
        name: [[cell["rows"] for cell in by_value.values()] for by_value in by_axis.values()]
        for name, by_axis in report["methods"].items()
    }
    # SDEdit: 2 for half of the steps and each target; Prompt-to-Prompt: at each step 1 of the source and 2 a target
    assert rows == {"sdedit": [[4, 8], [4, 8]], "prompt-to-prompt": [[12, 24], [12, 20]]}
    assert all(cell["ratio"] > 0.3 for by_axis in report["methods"].values() for cell in by_axis["steps"].values())


def test_long_prompts_take_as_many_chunks_as_they_say(tiny_model: object) -> None:
    for chunks in growth.AXES["chunks"]:
        work = growth.Work(chunks=chunks, targets=4)
        tokens = tiny_model.encode_prompt([work.prompt("cat"), *work.prompts]).tokens  # type: ignore[attr-defined]
        assert tokens == 77 * chunks


def test_the_bare_calls_are_those_of_the_edit(tiny_model: object) -> None:
    """As many, of the same rows, with gradients where the edit takes them; and the model is left as it was."""
    model, work, calls, again = tiny_model, growth.Work(steps=1, latents=8), [], []
    source = growth.start_of(model, "pix2pix-zero", work)
    with growth.noted(model, calls):
        growth.edit(model, "pix2pix-zero", source, work)
    assert "predict" not in vars(model)
    assert "decode_latents" not in vars(model)
    assert [call.backward for call in calls if call.backward] == ["inside"], "attention maps are inside the network"
    with growth.noted(model, again):
        growth.make(model, calls)
    assert [(call.shape, call.backward) for call in again] == [(call.shape, call.backward) for call in calls]


def test_an_unknown_axis_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        growth.main(["no-folder", "--axes", "time"])
    assert "unknown axis time" in capsys.readouterr().err
