"""The table of methods in README.md, of the registry."""

from __future__ import annotations

from sfumato.edits.method import METHODS
from sfumato.inversions.method import INVERSIONS
from sfumato.morphs.method import MORPHS
from tools.pages import DOCS

PAGE = DOCS.parent / "README.md"
START, END = "<!-- methods: written by make pages -->\n", "<!-- end of methods -->"


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
    words, _, rest = paper.partition(", https://")
    address, _, place = rest.partition(", ")
    return f"[{words}](https://{address}){', ' * bool(place)}{place}" if address else paper
