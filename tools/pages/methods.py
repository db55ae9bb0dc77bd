"""Writes the table of methods into README.md from the registry: `python docs/methods.py` (`--check` only compares)."""

from __future__ import annotations

import sys
from pathlib import Path

from sfumato.registry import INVERSIONS, METHODS, MORPHS

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- methods: written by docs/methods.py, checked by tests/test_docs.py -->\n", "<!-- end of methods -->"


def table() -> str:
    """The methods, inversions and morphs as Markdown."""
    lines = ["| edit | what it does | paper |", "|---|---|---|"]
    lines += [f"| `{m.name}` | {m.summary} | {_cite(m.paper)} |" for m in METHODS.values()]
    lines += ["", "| inversion | what it does | cost | paper |", "|---|---|---|---|"]
    lines += [f"| `{i.name}` | {i.summary} | {i.cost} | {_cite(i.paper)} |" for i in INVERSIONS.values()]
    lines += ["", "| morph | what it does | cost | paper |", "|---|---|---|---|"]
    lines += [f"| `{m.name}` | {m.summary} | {m.cost} | {_cite(m.paper)} |" for m in MORPHS.values()]
    return "\n" + "\n".join(lines) + "\n\n"


def written(readme: str) -> str:
    """The README with the present table."""
    before, rest = readme.split(START)
    return before + START + table() + END + rest.split(END, 1)[1]


def _cite(paper: str) -> str:
    """A paper's reference with its address as a link."""
    words, _, address = paper.rpartition(", ")
    return f"[{words}]({address})" if address.startswith("http") else paper


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if written(text) == text else "README.md is behind the registry: run python docs/methods.py")
    README.write_text(written(text), encoding="utf-8")
