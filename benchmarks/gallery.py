"""Builds the gallery: every method on the same seven edits of the bundled images, beside the exact ground truth.

    python benchmarks/gallery.py [--methods a,b] [--steps 50] [--out docs/gallery]

Writes `gallery.png` (one row a method) and `gallery.json` (every figure). A method that is not run
keeps its figures and images of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sfumato
from sfumato.apps.contact_sheet import Cell, Row, Words, draw_sheet
from sfumato.bench.scenes import rendered
from sfumato.edits.method import METHODS
from sfumato.emoji import EXAMPLES
from sfumato.emoji.perceptual import EmojiDistance
from sfumato.emoji.render import shipped_atlas
from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scenes import Scene, moved, read_scene
from sfumato.images import to_pixels
from sfumato.metrics.psnr import psnr
from sfumato.models.traits import unmet


@dataclass(frozen=True)
class GalleryEdit:
    """An edit of a bundled image.

    Attributes:
        name: Of the edit.
        file: The image.
        change: What changes in its scene.
        style: Whether the prompts name the drawing style.
    """

    name: str
    file: str
    change: Callable[[Scene], Scene]
    style: bool = False

    def prompt(self, scene: Scene) -> str:
        """What is said of a scene."""
        plain = scene.background.pattern == "plain"
        return caption(scene, Telling(tuple(range(len(scene.things))), style=self.style, pattern=not plain))


def behind(scene: Scene, **changes: Any) -> Scene:
    """The scene with another background."""
    return replace(scene, background=replace(scene.background, **changes))


EDITS = (
    GalleryEdit("swap, near", "fox-and-pizza.png", lambda scene: moved(scene, 0, concept="dog")),
    GalleryEdit("swap, far", "lion-and-sunflower.png", lambda scene: moved(scene, 1, concept="cupcake")),
    GalleryEdit("recolour", "apple-and-cat.png", lambda scene: moved(scene, 0, tint="green")),
    GalleryEdit("background", "panda-and-cupcake.png", lambda scene: behind(scene, colour="purple")),
    GalleryEdit("style", "star-and-heart.png", lambda scene: replace(scene, style="noto"), style=True),
    GalleryEdit("amount", "rabbit-and-tree.png", lambda scene: behind(scene, amount=0.85)),
    GalleryEdit("two at once", "car-and-balloon.png", lambda scene: behind(moved(scene, 0, tint="red"), colour="pink")),
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
    found = []
    for edit in EDITS:
        scene = read_scene(entries[edit.file]["scene"])
        target = edit.change(scene)
        source, truth = rendered([scene, target], shipped_atlas())
        found.append(Task(edit, source, truth, edit.prompt(scene), edit.prompt(target)))
    return found


@torch.no_grad()
def perceptual_distance(image: Image.Image, reference: Image.Image) -> float:
    """`EmojiDistance`, in [0, 2]."""
    return float(EmojiDistance()(to_pixels(image), to_pixels(reference)))


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
    served = [name for name, entry in METHODS.items() if not unmet(entry.needs, model)]
    record["methods"] = {name: record["methods"][name] for name in served if name in record["methods"]}
    for name in args.methods.split(",") if args.methods else served:
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
        side = jobs[0].source.width
        with Image.open(images / f"{name}.png") as strip:
            shown = [strip.convert("RGB").crop((k * side, 0, (k + 1) * side, side)) for k in range(len(jobs))]
        cells = [Cell(image, _caption(figure)) for image, figure in zip(shown, figures, strict=True)]
        rows.append(Row(name, [[Words(METHODS[name].summary)]], cells))
    return draw_sheet(rows, [job.edit.name for job in jobs], heading="sfumato: every method on seven edits", tile=128)


def _caption(figure: dict[str, Any]) -> str:
    if "refused" in figure:
        return "refused"
    return f"{figure['psnr']:.1f} dB, {figure['perceptual']:.2f}"


def _psnr(image: Image.Image, reference: Image.Image) -> float:
    return round(psnr(np.asarray(image), np.asarray(reference), data_range=255), 2)


if __name__ == "__main__":
    main()
