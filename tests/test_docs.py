"""The README says what the registry says, and every file that it points to is there."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str, folder: str = "docs") -> Any:
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_methods_is_up_to_date() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script("methods").written(text) == text, "run python docs/methods.py"


def test_the_leaderboard_is_that_of_its_data() -> None:
    pytest.importorskip("pyarrow")
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert script("benchmarks").written(text) == text, "run python docs/benchmarks.py"


def test_the_page_of_morphs_is_that_of_its_data() -> None:
    report = json.loads((ROOT / "docs" / "morphs.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "morphs.md").read_text(encoding="utf-8")
    assert script("morphs_page", "benchmarks").page(report) == text, "run python benchmarks/morphs.py"


def test_links_to_files_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
