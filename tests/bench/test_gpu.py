"""The script for GPUs, in a small form on the processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu

SMALL = ["--models", "toy", "--batches", "1,2", "--steps", "2", "--dtype", "fp32", "--device", "cpu"]


def test_each_method_is_measured_beside_the_bare_network(tmp_path: Path) -> None:
    report = gpu.main([*SMALL, "--methods", "sdedit,prompt-to-prompt", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "gpu.json").read_text()) == report
    toy = report["models"]["toy"]
    assert set(toy["bare"]["eager"]) == {"1", "2"}
    assert set(toy["methods"]) == {"sdedit", "prompt-to-prompt"}
    for one, two in ((of["1"], of["2"]) for of in toy["methods"].values()):
        assert two["evaluations"] == 2 * one["evaluations"] > 0
        assert one["seconds"] > 0
    assert report["missing"] == []


def test_what_there_was_no_time_for_is_named(tmp_path: Path) -> None:
    report = gpu.main([*SMALL, "--methods", "sdedit", "--minutes", "0", "--out", str(tmp_path)])
    assert report["missing"] == [f"toy, batch {n}, {what}" for n in (1, 2) for what in ("bare eager", "sdedit")]


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--models", "sd99"])
    assert "unknown model sd99; there are sd15, sdxl, toy" in capsys.readouterr().err
