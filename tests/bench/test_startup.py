"""The benchmark of start-up, on a toy model and on made-up seconds."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from benchmarks import startup
from tools.pages.startup import page


def test_the_least_of_processes_in_turn_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def seconds(arguments: list[str]) -> tuple[float, float]:
        started.append("bare" if arguments[1] == startup.BARE else arguments[-1])
        return 10.0 - len(started), float(len(started))

    monkeypatch.setattr(startup, "_process_seconds", seconds)
    found = startup.cold("emoji", 2)
    assert started[0] == started[4] == "bare"
    assert found["bare"] == {"processor": 5.0, "clock": 1.0}
    assert list(found) == ["bare", "edit", "import", "help"]


def test_processor_seconds_are_those_of_the_process() -> None:
    used, passed = startup._process_seconds(["-c", "print(sum(range(10**6)))"])
    assert 0 < used < 10
    assert passed > 0
    with pytest.raises(SystemExit, match="no such thing"):
        startup._process_seconds(["-c", "raise RuntimeError('no such thing')"])


def test_the_bare_program_loads_all_parts(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["-c", str(tiny_sd)])
    namespace: dict[str, object] = {}
    exec(startup.BARE, namespace)
    assert namespace["part"] == "scheduler"


def test_a_warm_edit_is_measured_beside_its_network_calls(tiny_sd: Path) -> None:
    with warnings.catch_warnings():
        row = startup.warm(str(tiny_sd), "ddib", steps=2, rounds=1)
        assert startup.warm(str(tiny_sd), "flowalign", steps=2, rounds=1) is None  # for flows alone
    assert row is not None
    assert row["calls"] == 4  # the inversion's, and the edit's
    assert row["rows"] == 2 + 2 * 3  # of the edit: the source, and the target under guidance
    assert row["seconds"] > 0
    assert row["bare_seconds"] > 0


def test_the_page_says_how_far_the_goal_is() -> None:
    cold = {name: {"processor": seconds, "clock": 9.0} for name, seconds in (("bare", 4.0), ("edit", 5.0))}
    row = {"calls": 4, "rows": 8, "seconds": 1.2, "bare_seconds": 1.0, "ratio": 1.2}
    report = {
        "model": "emoji", "processor": "x", "versions": {"torch": "2"}, "rounds": 3, "steps": 10, "cold": cold,
        "warm": {"ddib": row},
    }  # fmt: skip
    text = page(report)
    assert "A cold edit takes 1.25 times" in text
    assert "| `ddib` | 4 | 8 | 1.2 | 1.0 | 1.2 |" in text
    assert "pix2pix-zero" not in text
