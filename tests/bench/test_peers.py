"""The script that compares with diffusers' pipelines, in a small form: equal results of equal rows."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

import sfumato
from benchmarks import peers
from tests.toy import toy_sd_folder

SMALL = ["--latents", "8", "--steps", "3", "--rounds", "1", "--together"]


def test_results_are_those_of_diffusers_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pix2pix-zero, CycleDiffusion and LEDITS++ (with masks by guidance) give the latents of diffusers."""
    methods, toy = "cycle-diffusion,pix2pix-zero,ledits", toy_sd_folder(tmp_path / "toy")
    monkeypatch.setattr(peers, "WARM_UP", {"latents": 8, "steps": 2})
    monkeypatch.setattr(sfumato, "load_model", functools.cache(sfumato.load_model))
    report = peers.main([str(toy), *SMALL, "--methods", methods, "--out", str(tmp_path)])
    assert json.loads((tmp_path / "peers.json").read_text()) == report
    rows = report["8"]["methods"]
    assert set(rows) == set(methods.split(","))
    for row in rows.values():
        assert row["max_difference"] < 1e-4 * row["range"]
        assert row["psnr"] > 90
    counts = {name: (row["theirs"]["rows"], row["ours"]["rows"]) for name, row in rows.items()}
    # of 3 steps CycleDiffusion runs int(0.8 * 3); LEDITS++ ends with the reconstruction
    assert counts == {"cycle-diffusion": (4 * 2, 2 + 2 * 2 + 1), "pix2pix-zero": (18, 18), "ledits": (9, 10)}


def test_what_is_written_is_not_run_again(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "compared", lambda job, name, rounds: {"of": name})
    arguments = [str(tiny_sd), *SMALL, "--methods", "ledits,null-text", "--out", str(tmp_path)]
    first = peers.main(arguments)
    assert first["8"]["methods"] == {"ledits": {"of": "ledits"}}
    assert "null-text: left out, NullTextPipeline is not at hand" in capsys.readouterr().err
    monkeypatch.setattr(peers, "compared", lambda job, name, rounds: {"of": "again"})
    assert peers.main(arguments) == first


def test_an_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["no-folder", "--methods", "sdedit"])
    assert "unknown method sdedit; there are prompt-to-prompt" in capsys.readouterr().err
