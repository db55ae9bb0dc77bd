"""Chooses options: edits of the emoji world with exact answers, apart from those that EmojiEdit and the gallery report.

    python benchmarks/emoji_edits.py VARIANT ... [--per-kind 4] [--kinds style,background] [--steps 30] [--seed 1]
        [--json FILE] [--sheet FILE]

    python benchmarks/emoji_edits.py sdedit sdedit:strength=0.7 "ledits:masks=noise;guidance_scale=5"

A variant is a method and what differs from the model's defaults: options, `inversion`, `guidance_scale`,
`source_guidance_scale`, and `negative_prompt`, of which `{source}` is the source's own. Scenes are drawn as for
EmojiEdit, from another seed. Columns: PSNR to the exact target; perceptual distance to it, and of what the exact edit
changes alone; PSNR to the source where it changes nothing (kept); perceptual distance to the target by kind of edit;
network evaluations and seconds, the inversion's included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import sfumato
from sfumato.apps.contact_sheet import Cell, Row, Words, draw_sheet
from sfumato.bench.editing import QUIET, price
from sfumato.bench.emoji_edit import Judge
from sfumato.bench.scenes import TEST_SEED
from sfumato.edits.method import METHODS
from sfumato.emoji import WEIGHTS
from sfumato.emoji.render import render, shipped_atlas
from sfumato.emoji.scene_edits import KINDS, SceneEdit, draw_edits
from sfumato.images import to_images
from sfumato.models.base import Model

TUNED_ON = "swap-near,swap-far,recolour,style,background,two-edits"
DRIVER = {"inversion": str, "guidance_scale": float, "source_guidance_scale": float, "negative_prompt": str}
Figures = Mapping[str, Any]


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="+", metavar="METHOD[:NAME=VALUE;...]")
    parser.add_argument("--per-kind", type=int, default=4)
    parser.add_argument("--kinds", default=TUNED_ON, help=f"of {', '.join(KINDS)}")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    if args.seed == TEST_SEED:
        parser.error(f"seed {TEST_SEED} is EmojiEdit's own: options chosen on it would be judged on it too")
    if unknown := set(args.kinds.split(",")) - set(KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    variants = {text: read_variant(text) for text in args.variants}

    model, judge, atlas = sfumato.load_model("emoji"), Judge(WEIGHTS), shipped_atlas()
    cases = draw_edits(atlas.world, args.seed, args.per_kind, args.kinds.split(","))
    drawn = []
    for case in cases:
        pixels, masks = render([case.source, case.target], atlas)
        drawn.append((*to_images(pixels), masks[0]))
    images: dict[str, list[Image.Image]] = {"source": [], "exact target": []}
    figures: dict[str, list[Figures]] = {"(unedited)": []}
    for case, (source, truth, masks) in zip(cases, drawn, strict=True):
        images["source"].append(source)
        images["exact target"].append(truth)
        figures["(unedited)"].append(judge.figures(case, source, truth, source, masks))
    for text, (method, options) in variants.items():
        images[text], figures[text] = [], []
        for case, (source, truth, masks) in zip(cases, drawn, strict=True):
            result = edit(model, source, case, method, options, args.steps)
            images[text].append(result.image)
            figures[text].append({**judge.figures(case, source, truth, result.image, masks), **price(result)})
        reached = mean(figures[text], "target_psnr", 2), mean(figures[text], "target_distance", 3)
        print(f"{text}: {reached[0]} dB, perceptual {reached[1]}", flush=True)
    print(table(figures, [case.kind for case in cases]))
    if args.json:
        edits = [{"kind": case.kind, "source": case.source_prompt, "target": case.target_prompt} for case in cases]
        record = {"seed": args.seed, "steps": args.steps, "edits": edits, "figures": figures}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if args.sheet:
        rows = [Row(name, [[Words("")]], [Cell(image) for image in strip]) for name, strip in images.items()]
        draw_sheet(rows, [case.kind for case in cases], heading="EmojiEdit, tuning", tile=96).save(args.sheet)


def read_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Reads `method:name=value;name=value`.

    Raises:
        UsageError: The method or an option is unknown, or a value does not fit.
    """
    name, _, settings = text.partition(":")
    method, options = METHODS[name], {}
    for setting in filter(None, settings.split(";")):
        key, _, value = setting.partition("=")
        if key not in DRIVER and key not in method.parameters:
            method.check_options({key: value})  # raises, with the closest name
        options[key] = DRIVER[key](value) if key in DRIVER else method.parameters[key].parse(value)
    return name, options


def edit(
    model: Model, source: Image.Image, case: SceneEdit, method: str, options: Mapping[str, Any], steps: int
) -> sfumato.EditResult:
    """One edit by the captions of its scenes."""
    options = dict(options)
    if "negative_prompt" in options:
        options["negative_prompt"] = options["negative_prompt"].replace("{source}", case.source_prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a source that comes back badly shows in the figures
        return sfumato.edit(
            model,
            source,
            source_prompt=case.source_prompt,
            target_prompt=case.target_prompt,
            method=method,
            num_inference_steps=steps,
            watch=QUIET,
            **options,
        )


def table(figures: Mapping[str, Sequence[Figures]], kinds: Sequence[str]) -> str:
    """Means over the edits of each variant as Markdown."""
    shown = list(dict.fromkeys(kinds))
    heads = ["variant", "PSNR", "perceptual", "inside", "kept", *shown, "evaluations", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for variant, rows in figures.items():
        by_kind = [[row for row, kind in zip(rows, kinds, strict=True) if kind == one] for one in shown]
        cells = [
            mean(rows, "target_psnr", 2),
            mean(rows, "target_distance", 3),
            mean(rows, "inside_distance", 3),
            mean(rows, "kept_psnr", 1),
            *(mean(part, "target_distance", 3) for part in by_kind),
            mean(rows, "evaluations", 0),
            mean(rows, "seconds", 1),
        ]
        lines.append("| " + " | ".join([f"`{variant}`", *cells]) + " |")
    return "\n".join(lines)


def mean(rows: Sequence[Figures], name: str, digits: int) -> str:
    """The mean of a figure where there is one, else a dash."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return f"{statistics.mean(values):.{digits}f}" if values else "-"


if __name__ == "__main__":
    main()
