"""The script that options are chosen with: its edits are not those that are reported, and it reads options strictly."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sfumato.bench.scenes import TEST_SEED
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
