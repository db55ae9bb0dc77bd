"""docs/method-cost.md, of what benchmarks/method_cost.py measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "method-cost.md"


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "method-cost.json").read_text(encoding="utf-8")))


def page(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    size = report["latents"]
    lines = [
        "# Cost of each method, beside the bare network",
        "",
        (
            f"Written by `python benchmarks/method_cost.py`: `{report['model']}`, {size}×{size}"
            f" latents, {report['steps']} steps, one image, one target, default options unless said; one thread of an"
            f" {report['processor']}, torch {report['torch']}; least of {report['rounds']} runs, processor time."
        ),
        "",
        "| method | evaluations | seconds | as many bare evaluations | ratio | peak memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["methods"].items():
        label = f"`{name}`" + "".join(f", {key} {value}" for key, value in row["options"].items())
        figures = (row[key] for key in ("evaluations", "seconds", "bare_seconds", "ratio", "peak_memory_gb"))
        lines.append("| " + " | ".join([label, *map(str, figures)]) + " |")
    lines += [
        "",
        "- The inversion is made beforehand and is not included. Memory is that of the whole process.",
        "- `pix2pix-zero` and `langevin` differentiate through the network, so that their evaluations cost more.",
    ]
    return "\n".join(lines) + "\n"
