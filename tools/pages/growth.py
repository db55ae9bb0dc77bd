"""docs/growth.md, of what benchmarks/growth.py measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "growth.md"

AXES = {
    "steps": "Steps",
    "latents": "Pixels: side of the latents",
    "images": "Images in a batch",
    "targets": "Target prompts",
    "chunks": "Long prompts: chunks of the text encoder",
}
RISE = 1.1
"""A ratio that has risen by more than this factor is marked."""

NOTES = """
- `prompt-to-prompt` and `ledits` add up the attention maps of the grid closest to 16×16. At 16×16 latents that is the
  network's largest: maps that the fused kernel never makes take a share of the time that grows with images and with
  chunks of a long prompt. At 32×32 and above it is a small part of the network, and all other layers keep the fused
  kernel ([at 64×64](method-cost.md)).
- An edit reads its prompts once, whatever the number of steps: with few steps in a network this small, reading prompts
  of several chunks shows.
"""


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "growth.json").read_text(encoding="utf-8")))


def page(report: Mapping[str, Any]) -> str:
    """The report as Markdown, a table an axis."""
    where = f"one thread of an {report['processor']}, torch {report['torch']}; least of {report['rounds']} runs"
    lines = [
        "# How the cost grows",
        "",
        "Written by `python -m benchmarks.growth`: seconds of each method over those of the same network calls",
        "with nothing around them, while one number grows and the others stay (4 steps, 16×16 latents, one image,",
        "one target, prompts of one chunk). The calls have as many rows of the same size, and a backward pass",
        "where the method makes one, so that a ratio that rises along a line is cost that grows faster than the",
        "network's own. The inversion is made beforehand.",
        "",
        f"`{report['model']}`; {where}; processor time. Ratios that rise by more than {100 * (RISE - 1):.0f} % are in",
        "**bold**. At 16×16 latents this network is so small that what Python does around a layer counts.",
    ]
    for axis, title in AXES.items():
        if axis in report["axes"]:
            lines += ["", f"## {title}", "", *_table(report["methods"], axis)]
    return "\n".join([*lines, "", NOTES.strip()]) + "\n"


def _table(methods: Mapping[str, Mapping[str, Any]], axis: str) -> Iterator[str]:
    values = list(next(iter(methods.values()))[axis])
    columns = ["method", *(f"ratio at {value}" for value in values), *(f"rows at {value}" for value in values)]
    yield "| " + " | ".join([*columns, f"seconds at {values[-1]}"]) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in sorted(methods):
        by_axis = methods[name]
        cells = list(by_axis[axis].values())
        ratios = [f"{cell['ratio']:.2f}" for cell in cells]
        if cells[-1]["ratio"] > RISE * cells[0]["ratio"]:
            ratios[-1] = f"**{ratios[-1]}**"
        rows = [str(cell["rows"]) for cell in cells]
        yield "| " + " | ".join([f"`{name}`", *ratios, *rows, f"{cells[-1]['seconds']:.2f}"]) + " |"
