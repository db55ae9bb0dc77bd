"""docs/startup.md, of what benchmarks/startup.py measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "startup.md"
PROGRAMS = {
    "bare": "imports of torch, diffusers and transformers, and the weights loaded with them",
    "edit": "`sfumato edit --steps 1`",
    "import": "`import sfumato`",
    "help": "`sfumato --help`",
}


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "startup.json").read_text(encoding="utf-8")))


def page(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    cold = report["cold"]
    ratio = cold["edit"]["processor"] / cold["bare"]["processor"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    about = (
        f"Written by `python -m benchmarks.startup`: `{report['model']}`, an image of 128x128 pixels, one thread of an"
        f" {report['processor']}, {versions}; least of {report['rounds']} rounds."
    )
    beside = (
        f"A cold edit takes {ratio:.2f} times the processor time of the bare imports and weights; the goal is at most"
        " 1.3. Most of both is the import of diffusers."
    )
    warm = (
        f"A whole `sfumato.edit` of {report['steps']} steps in a process that has made one before, from the image file"
        " to the result, beside the same network calls by themselves, without hooks and gradients. Processor time."
    )
    processes = [f"| {PROGRAMS[name]} | {row['processor']} | {row['clock']} |" for name, row in cold.items()]
    lines = ["# Start-up, and an edit beside its network calls", "", about, "", "## Cold", ""]
    lines += ["Processes that each start afresh. Seconds of the clock are those of a loaded machine.", ""]
    lines += ["| process | processor, seconds | clock, seconds |", "|---|---|---|", *processes, "", beside, ""]
    lines += ["## Warm", "", warm, "", *_table(report["warm"]), ""]
    lines += ["- The rest is mainly the autoencoder, which encodes the image and decodes two or three."]
    if "pix2pix-zero" in report["warm"]:
        lines += ["- `pix2pix-zero` differentiates through the network."]
    return "\n".join(lines) + "\n"


def _table(warm: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    columns = ["method", "network calls", "rows in them", "seconds", "network calls alone", "ratio"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for name, row in warm.items():
        keys = ("calls", "rows", "seconds", "bare_seconds", "ratio")
        yield "| " + " | ".join([f"`{name}`", *(str(row[key]) for key in keys)]) + " |"
