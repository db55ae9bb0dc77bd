"""docs/peers.md, of what benchmarks/peers.py measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.pages import DOCS

PAGE = DOCS / "peers.md"

WHAT = {
    "prompt-to-prompt": "word swap from drawn noise, the source guided like the target; `released=True`",
    "pix2pix-zero": "from drawn noise, the source guided like the target; `update=released`",
    "cycle-diffusion": "strength 0.8, eta 0.1, guidance 2, the source at 1; inverted at the same strength",
    "diffedit": "strength 0.8, 10 draws for the mask, inverted without guidance",
    "ledits": "one concept, masks by guidance (`masks=noise`), the empty source prompt",
    "ledits-both-masks": "one concept, masks by attention and guidance (`masks=both`), the empty source prompt",
    "null-text": "3 updates a step, then the replay",
}
"""What each pair computes."""

DIFFERENCES = """
- `prompt-to-prompt` and `null-text` are compared with files of diffusers' examples/community, the others with
  pipelines of the package (those of pix2pix-zero, CycleDiffusion and DiffEdit are deprecated there, and run).
- `Prompt2PromptPipeline` makes every attention map of the network and keeps those of up to 32×32 positions; sfumato
  makes those of one grid, which it adds up.
- `StableDiffusionPix2PixZeroPipeline` makes every attention map, also for its backward pass, and keeps the
  cross-attention maps of all steps, so that its memory grows with the steps; sfumato keeps those of one step.
- `CycleDiffusionPipeline` guides the source at scale 1, for nothing: sfumato needs one row for it, and none in the
  edit. It calls the network with four rows at once, sfumato with one or two, so that a row costs a tenth more at this
  size; likewise with `diffedit`, where diffusers' mask takes one call of 40 rows, and ten times the memory.
- `StableDiffusionDiffEditPipeline` guides the predictions for the mask, which scales all differences alike; without
  guidance it raises an error. sfumato takes half the rows for it, and inverts the whole grid, one row for each step
  that the edit skips. The results are not the same: diffusers' mask is where the contrast is above 1.5 times its
  mean, the paper's and sfumato's where it is above half of its range; and diffusers sets the outside of the mask to
  the latents before a step, sfumato to those after it.
- `LEditsPPPipelineStableDiffusion` raises an error with DDIM in this diffusers, whose timesteps must be whole
  numbers: the script gives it a scheduler that makes them whole. sfumato takes one row more, for the reconstruction.
  With attention masks the results are not the same: diffusers looks at the maps of one step, sfumato at those of all
  steps so far, and diffusers leaves out the mask by guidance above timestep 800.
- `NullTextPipeline` makes the conditional prediction of a step twice. Its gradients also reach all weights of the
  network, which nothing reads.
"""
"""Where the two do not do the same."""


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "peers.json").read_text(encoding="utf-8")))


def page(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as Markdown, a table a size."""
    lines = [
        "# sfumato beside diffusers' own pipelines",
        "",
        "Written by `python -m benchmarks.peers`: the same edit by a pipeline of diffusers and by sfumato, in one",
        "process and in turns, on the same weights, latents and random numbers. Inversions are included; encoding and",
        "decoding of images are not.",
    ]
    for latents, run in report.items():
        lines += ["", f"## {latents}×{latents} latents", "", _run(run), "", *_table(run["methods"])]
    lines += ["", "## How to read it", "", *_notes(report)]
    return "\n".join(lines) + "\n"


def _run(run: Mapping[str, Any]) -> str:
    """What was run, in words."""
    where = f"one thread of an {run['processor']}, torch {run['torch']}, diffusers {run['diffusers']}"
    rounds = "one run" if run["rounds"] == 1 else f"least of {run['rounds']} runs"
    return f"`{run['model']}`, {run['steps']} steps, one image, one target; {where}; {rounds}."


def _table(methods: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    pairs = ["seconds", "a row", "rows", "memory, MB"]
    columns = ["method", *(f"{name}: diffusers" if k == 0 else "sfumato" for name in pairs for k in range(2))]
    yield "| " + " | ".join([*columns, "largest difference", "PSNR"]) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    for name in WHAT:
        if name not in methods:
            continue
        row = methods[name]
        both = [row["theirs"], row["ours"]]
        cells = [
            *(f"{side['seconds']:.2f}" for side in both),
            *(f"{side['seconds'] / side['rows']:.3f}" for side in both),
            *(str(side["rows"]) for side in both),
            *(str(side["memory_mb"]) for side in both),
            f"{row['max_difference']:.1e} of {row['range']:.0f}",
            f"{row['psnr']:.0f} dB",
        ]
        yield "| " + " | ".join([f"`{name}`", *cells]) + " |"


def _notes(report: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    slower = [
        f"`{name}` at {latents}×{latents}"
        for latents, run in report.items()
        for name, row in run["methods"].items()
        if row["ours"]["seconds"] > row["theirs"]["seconds"]
    ]
    yield "- *Seconds* are processor time, *rows* single samples through the network, counted at the network itself."
    yield "- *Memory* is the most that the process held during the edit above what it held before it, weights loaded."
    yield "- *Largest difference* is that of the clean latents, beside their range; *PSNR* is over that range."
    yield f"- Slower than diffusers: {', '.join(slower) if slower else 'none'}."
    for name, text in WHAT.items():
        pipelines = {run["methods"][name]["pipeline"] for run in report.values() if name in run["methods"]}
        yield f"- `{name}` beside `{', '.join(sorted(pipelines))}`: {text}." if pipelines else f"- `{name}`: not run."
    yield DIFFERENCES.strip()
