"""The script that options are chosen with: its edits are not those that are reported, and it reads options strictly."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sfumato.bench.emoji_scenes import TEST_SEED, draw_cases
from sfumato.emoji import EXAMPLES
from sfumato.errors import UsageError


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "emoji_edits.py"
    spec = importlib.util.spec_from_file_location("emoji_edits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tuning_edits_are_not_those_of_the_gallery(script: ModuleType) -> None:
    kinds = script.TUNED_ON.split(",")
    shown = {
        (entry["concept"], entry["style"], entry["background"])
        for entry in json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
    }
    drawn = [case for case in draw_cases(1, 20) if case.kind in kinds]
    kept = script.tuning_cases(1, 20, kinds)
    left_out = [case for case in drawn if case not in kept]
    assert left_out, "the seed draws images of the gallery, or the test tests nothing"
    assert all((case.source.concept, case.source.style, case.source.background) in shown for case in left_out)
    assert {case.kind for case in kept} == set(kinds)
    assert len(kept) + len(left_out) == 20 * len(kinds)


def test_the_benchmarks_own_seed_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["emoji_edits.py", "sdedit", "--seed", str(TEST_SEED)])
    with pytest.raises(SystemExit):
        script.main()
    assert "EmojiEdit's own" in capsys.readouterr().err


def test_variants(script: ModuleType) -> None:
    assert script.read_variant("sdedit") == ("sdedit", {})
    name, options = script.read_variant("ledits:masks=none;strength=0.5;guidance_scale=2;inversion=ddim")
    assert name == "ledits"
    assert options == {"masks": "none", "strength": 0.5, "guidance_scale": 2.0, "inversion": "ddim"}
    for text in ("sdedits", "sdedit:strenght=0.5", "sdedit:strength=much"):
        with pytest.raises(UsageError):
            script.read_variant(text)
