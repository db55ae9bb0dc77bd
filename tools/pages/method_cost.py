"""docs/method-cost.md, of what benchmarks/method_cost.py measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "method-cost.md"
FLOWS = {
    "toy-sd3": "Stable Diffusion 3.5 at toy size: 2 blocks, one of them with a second attention, width 256",
    "toy-flux": "FLUX.1 dev at toy size: 1 double and 2 single blocks, width 256",
}

TWICE = (
    "`prompt-to-prompt` calls the attention kernel twice at each layer of a flow model, and makes the maps of image to"
    " text ([flow models](flow.md))."
)

GRADIENTS = """
- `pix2pix-zero` and `langevin` differentiate through the network. They stand beside their own calls, made again with
  nothing around them: on as many rows, with a backward pass where the method makes one; for Langevin guidance also
  those of the decoder, all but the last with a backward pass. A backward pass is from the sum of the output to the
  latents; for `pix2pix-zero`, whose gradient is of attention maps, from the sum of the queries of all cross-attention
  layers, so that it is no deeper than the method's. Activations are kept, and none is computed again. Making attention
  maps, and the dual encoder of Langevin guidance, count against the methods. Other jobs ran on the machine meanwhile.
"""


def written(_: str) -> str:
    """The page, of the stored figures."""
    flows = {name: DOCS / f"method-cost-{name}.json" for name in FLOWS}
    return page(
        json.loads((DOCS / "method-cost.json").read_text(encoding="utf-8")),
        {name: json.loads(file.read_text(encoding="utf-8")) for name, file in flows.items() if file.is_file()},
    )


def page(report: Mapping[str, Any], flows: Mapping[str, Mapping[str, Any]]) -> str:
    """The reports as Markdown: of a diffusion, and of flow models by name."""
    lines = [
        "# Cost of each method, beside the bare network",
        "",
        f"Written by `python -m benchmarks.method_cost`: `{report['model']}`, {_run(report)}.",
        "",
        *_table(report, memory=True),
        "",
        "- The inversion is made beforehand and is not included. Memory is that of the whole process.",
        GRADIENTS.strip(),
    ]
    for name, own in flows.items():
        lines += ["", f"## {FLOWS[name]}", "", f"`{name}`, {_run(own)}.", ""]
        lines += _table(own, memory=False)
    if flows:
        lines += ["", f"- {TWICE}"]
    return "\n".join(lines) + "\n"


def _run(report: Mapping[str, Any]) -> str:
    """What was run, in words."""
    size = report["latents"]
    asked = f"{size}×{size} latents, {report['steps']} steps, one image, one target, default options unless said"
    where = f"one thread of an {report['processor']}, torch {report['torch']}"
    return f"{asked}; {where}; least of {report['rounds']} runs, processor time"


def _table(report: Mapping[str, Any], *, memory: bool) -> Iterator[str]:
    last = ["peak memory, GB"] if memory else []
    columns = ["method", "evaluations", "seconds", "as many bare evaluations", "ratio", *last]
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for name, row in report["methods"].items():
        label = f"`{name}`" + "".join(f", {key} {value}" for key, value in row["options"].items())
        keys = ("evaluations", "seconds", "bare_seconds", "ratio", *(("peak_memory_gb",) if memory else ()))
        cells = [label, *(str(row[key]) for key in keys)]
        if "with_backward" in row:
            cells[1] += f", {row['with_backward']} with a backward pass"
        yield "| " + " | ".join(cells) + " |"
