"""Builds the gallery: every method on the same six edits of real emoji images, beside the exact ground truth.

    python benchmarks/gallery.py [--methods a,b] [--steps 50] [--out docs/gallery]

Writes `gallery.png` (one row a method) and `gallery.json` (every figure). A method that is not run
keeps its figures and images of an earlier run. Needs the emoji drawings (`python -m sfumato.emoji.training.data`) for
the ground truth.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sfumato
from sfumato.apps.contact_sheet import Cell, Row, Words, draw_sheet
from sfumato.edits.method import METHODS
from sfumato.emoji import EXAMPLES, WEIGHTS
from sfumato.emoji.training.data import Renderer
from sfumato.emoji.world import Scene
from sfumato.metrics.psnr import psnr


@dataclass(frozen=True)
class GalleryEdit:
    """An edit of a bundled image: words of its caption that change, and what changes in its scene."""

    name: str
    file: str
    old: str
    new: str
    change: dict[str, Any]


EDITS = (
    GalleryEdit("near concept", "cat-face.png", "cat face", "dog face", {"concept": "dog face"}),
    GalleryEdit("far concept", "strawberry.png", "strawberry", "pizza", {"concept": "pizza"}),
    GalleryEdit("style", "fox.png", "flat style", "noto style", {"style": "noto"}),
    GalleryEdit("background", "panda.png", "purple background", "yellow background", {"background": "yellow"}),
    GalleryEdit("colour of the thing", "red-apple.png", "red apple", "green apple", {"concept": "green apple"}),
    GalleryEdit("two at once", "lion.png", "", "", {"concept": "bear", "background": "blue"}),
)


@dataclass(frozen=True)
class Task:
    """An edit with everything that is known of it."""

    edit: GalleryEdit
    source: Image.Image
    truth: Image.Image
    source_prompt: str
    target_prompt: str


def tasks() -> list[Task]:
    """All edits, their targets rendered."""
    entries = {entry["file"]: entry for entry in json.loads((EXAMPLES / "examples.json").read_text("utf-8"))}
    renderer, found = Renderer(), []
    for edit in EDITS:
        entry = entries[edit.file]
        scene = Scene(entry["concept"], entry["style"], entry["background"], tuple(entry["position"]), entry["scale"])
        prompt = entry["prompt"]
        target = prompt.replace(edit.old, edit.new) if edit.old else prompt
        if not edit.old:
            for name, value in edit.change.items():
                target = target.replace(str(getattr(scene, name)), value)
        assert target != prompt, (edit, prompt)
        with Image.open(EXAMPLES / edit.file) as source:
            truth = renderer.render(replace(scene, **edit.change), size=source.width)
            found.append(Task(edit, source.convert("RGB"), truth.convert("RGB"), prompt, target))
    return found


def perceptual_distance(image: Image.Image, reference: Image.Image) -> float | None:
    """1 - cosine of the embeddings of `emoji-clip`, in [0, 2]; None where it is not shipped."""
    path = WEIGHTS / "emoji-clip.safetensors"
    if not path.is_file():
        return None
    from sfumato.emoji.dual_encoder import load_dual_encoder

    pixels = torch.stack([_pixels(image), _pixels(reference)])
    with torch.no_grad():
        one, other = load_dual_encoder(path).encode_image(pixels)
    return float(1 - one @ other)


def run(name: str, model: Any, task: Task, steps: int) -> tuple[Image.Image, dict[str, Any]]:
    """One edit by one method: its image and its figures; a grey image where the method refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = sfumato.edit(
                model,
                task.source,
                source_prompt=task.source_prompt,
                target_prompt=task.target_prompt,
                method=name,
                num_inference_steps=steps,
            )
    except sfumato.SfumatoError as error:
        return Image.new("RGB", task.source.size, (200, 200, 200)), {"refused": str(error)}
    return result.image, {
        "psnr": _psnr(result.image, task.truth),
        "perceptual": perceptual_distance(result.image, task.truth),
        "reconstruction_psnr": _psnr(result.reconstruction, task.source),
        "evaluations": result.cost.evaluations,
        "seconds": round(result.cost.seconds, 1),
    }


def main() -> None:
    """Runs, draws, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"))
    args = parser.parse_args()

    model, jobs = sfumato.load_model("emoji"), tasks()
    images = args.out / "pictures"
    images.mkdir(parents=True, exist_ok=True)
    record_file = args.out / "gallery.json"
    record = json.loads(record_file.read_text("utf-8")) if record_file.is_file() else {"methods": {}}
    names = args.methods.split(",") if args.methods else list(METHODS)
    for name in names:
        figures, strip = [], Image.new("RGB", (sum(job.source.width for job in jobs), jobs[0].source.height))
        for k, job in enumerate(jobs):
            image, figure = run(name, model, job, args.steps)
            strip.paste(image, (k * job.source.width, 0))
            figures.append(figure)
            print(name, job.edit.name, figure, flush=True)
        strip.save(images / f"{name}.png")
        record["methods"][name] = figures
    record |= {
        "edits": [{"name": j.edit.name, "source": j.source_prompt, "target": j.target_prompt} for j in jobs],
        "unedited": [
            {"psnr": _psnr(j.source, j.truth), "perceptual": perceptual_distance(j.source, j.truth)} for j in jobs
        ],
        "steps": args.steps,
        "model": model.revision,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    record_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sheet = draw(jobs, record, images).quantize(256, dither=Image.Dither.NONE)
    sheet.save(args.out / "gallery.png", optimize=True)


def draw(jobs: list[Task], record: dict[str, Any], images: Path) -> Image.Image:
    """The sheet: sources, truths, then a row a method."""
    rows = [
        Row("source", [[Words("the image that is edited")]], [Cell(job.source) for job in jobs]),
        Row(
            "exact target",
            [[Words("the changed scene, rendered; captions: PSNR and perceptual distance of the unedited image")]],
            [Cell(j.truth, _caption(figure)) for j, figure in zip(jobs, record["unedited"], strict=True)],
        ),
    ]
    for name, figures in sorted(record["methods"].items()):
        if name not in METHODS:
            continue
        side = jobs[0].source.width
        with Image.open(images / f"{name}.png") as strip:
            shown = [strip.convert("RGB").crop((k * side, 0, (k + 1) * side, side)) for k in range(len(jobs))]
        cells = [Cell(image, _caption(figure)) for image, figure in zip(shown, figures, strict=True)]
        rows.append(Row(name, [[Words(METHODS[name].summary)]], cells))
    return draw_sheet(rows, [job.edit.name for job in jobs], heading="sfumato: every method on six edits", tile=128)


def _caption(figure: dict[str, Any]) -> str:
    if "refused" in figure:
        return "refused"
    distance = "" if figure["perceptual"] is None else f", {figure['perceptual']:.2f}"
    return f"{figure['psnr']:.1f} dB{distance}"


def _psnr(image: Image.Image, reference: Image.Image) -> float:
    return round(psnr(np.asarray(image), np.asarray(reference), data_range=255), 2)


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


if __name__ == "__main__":
    main()
