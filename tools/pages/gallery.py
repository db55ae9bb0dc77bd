"""The table of docs/gallery/README.md, of what benchmarks/gallery.py measured."""

from __future__ import annotations

import json
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "gallery" / "README.md"
START, END = "<!-- means: written by make pages -->\n", "<!-- end of means -->"


def written(page: str) -> str:
    """The page with the present table."""
    record = json.loads((DOCS / "gallery" / "gallery.json").read_text(encoding="utf-8"))
    before, rest = page.split(START)
    return before + START + "\n" + table(record) + "\n" + END + rest.split(END, 1)[1]


def table(record: dict[str, Any]) -> str:
    """Means over the edits as Markdown."""
    lines = [
        "| method | PSNR to the exact target | perceptual distance | reconstruction PSNR | evaluations | seconds |",
        "|---|---|---|---|---|---|",
        f"| (unedited) | {_mean(record['unedited'], 'psnr')} dB | {_mean(record['unedited'], 'perceptual', 3)} | | | |",
    ]
    for name, figures in sorted(record["methods"].items()):
        lines.append(
            f"| `{name}` | {_mean(figures, 'psnr')} dB | {_mean(figures, 'perceptual', 3)} |"
            f" {_mean(figures, 'reconstruction_psnr')} dB | {_mean(figures, 'evaluations', 0)} |"
            f" {_mean(figures, 'seconds')} |"
        )
    return "\n".join(lines) + "\n"


def _mean(figures: list[dict[str, Any]], name: str, digits: int = 1) -> str:
    values = [figure[name] for figure in figures if figure.get(name) is not None]
    return f"{sum(values) / len(values):.{digits}f}" if values else "-"
