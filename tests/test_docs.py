"""Pages say what the registry and the stored figures say, and every file that they point to is there."""

import re
import sys
from pathlib import Path

import pytest

from tools.pages import all_pages
from tools.pages.__main__ import main as pages_command

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(all_pages()))
def test_a_page_is_that_of_its_figures(name: str) -> None:
    module = all_pages()[name]
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.written(text) == text, "run make pages"


def test_a_page_that_is_behind_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "method-cost.md"
    page.write_text("old", encoding="utf-8")
    monkeypatch.setattr(all_pages()["method_cost"], "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["pages", "--check"])
    with pytest.raises(SystemExit, match="method_cost"):
        pages_command()
    assert page.read_text(encoding="utf-8") == "old"
    monkeypatch.setattr(sys, "argv", ["pages"])
    pages_command()
    assert "`masactrl`" in page.read_text(encoding="utf-8")


def test_links_to_files_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
