"""What each inversion costs and how well the image comes back: writes docs/inversions.json.

    python -m benchmarks.inversions [--model emoji] [--out docs] [--steps 50] [--images 12] [--only NAME ...]
    python -m benchmarks.inversions [--model emoji] [--out docs] --edits

Every registered inversion, with its default options, at guidance 1 and 7.5, on the embedded example images, one
image at a time: the inversion is timed, then replayed at the guidance it was made for and decoded. With --edits:
what starting from `direct` in place of `ddim` does to the gallery's edits, by every method that takes both.
What is not run keeps the numbers of the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import diffusers
import numpy as np
import torch
from PIL import Image

import sfumato
from benchmarks.gallery import perceptual_distance, tasks
from benchmarks.machine import memory
from sfumato.api.cost import measured
from sfumato.edits.method import METHODS
from sfumato.images import to_images, to_pixels
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.task import InversionTask
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.models.traits import unmet
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample

EXAMPLES = Path(sfumato.__file__).parent / "emoji" / "examples"
GUIDANCE = (1.0, 7.5)
COMPARED, EDIT_STEPS = ("ddim", "direct"), 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--only", nargs="*", help="these inversions; the others keep the numbers of the last run")
    parser.add_argument("--edits", action="store_true", help="measure the edits instead")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = sfumato.load_model(args.model, device="cpu")
    args.out.mkdir(exist_ok=True)
    file = args.out / "inversions.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    if args.edits:
        write(known | {"edits": {"model": model.revision, "steps": EDIT_STEPS, "methods": edits(model)}}, args.out)
        return
    images = json.loads((EXAMPLES / "examples.json").read_text())[: args.images]
    report: dict[str, Any] = {"model": model.revision, "machine": machine(model)}
    report |= {"steps": args.steps, "images": len(images)}
    report["ceiling_psnr"] = statistics.mean(ceiling(model, image) for image in images)
    rows = report["inversions"] = known.get("inversions", {}) if args.only else {}
    report["edits"] = known.get("edits", {"steps": EDIT_STEPS, "methods": {}})
    measure(model, "ddim", images[0], 1.0, 2)  # the first calls of a process are slower
    for name in args.only or [name for name, entry in INVERSIONS.items() if not unmet(entry.needs, model)]:
        rows[name] = {
            f"{scale:g}": summary([measure(model, name, image, scale, args.steps) for image in images])
            for scale in GUIDANCE
        }
        print(name, json.dumps(rows[name]), flush=True)
        write(report, args.out)  # after each, so that a run cut short goes on with --only


def write(report: dict[str, Any], folder: Path) -> None:
    (folder / "inversions.json").write_text(json.dumps(report, indent=1) + "\n")


def measure(model: Model, name: str, picture: dict[str, Any], scale: float, steps: int) -> dict[str, Any]:
    """One image there and back."""
    image = Image.open(EXAMPLES / picture["file"]).convert("RGB")
    clean, condition = model.encode_image(to_pixels(image)), model.encode_prompt(picture["prompt"])
    before, begun = memory(), time.process_time()
    with warnings.catch_warnings(record=True) as told, measured(model) as cost:
        warnings.simplefilter("always")
        generator = torch.Generator().manual_seed(0)
        found = INVERSIONS[name].function(InversionTask(model, clean, condition, None, scale, steps, None, generator))
    seconds = time.process_time() - begun
    branch = {"source": Branch(condition, guidance_scale=scale)}
    back = sample(model, found.noise, branch, timesteps=found.timesteps, replay=found, eta=found.eta)[0]
    with torch.no_grad():
        (shown,) = to_images(model.decode_latents(back))
    return {
        "evaluations": cost.evaluations,
        "seconds": seconds,
        "memory": max(cost.peak_memory - before, 0),
        "psnr": psnr(np.asarray(shown), np.asarray(image), data_range=255),
        "warned": any(issubclass(warning.category, UserWarning) for warning in told),
    }


def edits(model: Model) -> dict[str, dict[str, dict[str, float]]]:
    """Means over the gallery's edits, by method and inversion."""
    jobs, found = tasks(), {}
    for name, entry in METHODS.items():
        if name == "auto":  # runs the others
            continue
        if unmet(entry.needs, model) or not set(COMPARED) <= set(entry.starts):
            continue
        found[name] = {
            inversion: mean([edited(model, task, name, inversion) for task in jobs])
            for inversion in dict.fromkeys([*COMPARED, entry.default_inversion])
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def edited(model: Model, task: Any, method: str, inversion: str) -> dict[str, float]:
    """One edit of the gallery, held against its exact target."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sfumato.edit(
            model, task.source, source_prompt=task.source_prompt, target_prompt=task.target_prompt, method=method,
            inversion=inversion, num_inference_steps=EDIT_STEPS,
        )  # fmt: skip
    return {
        "psnr": psnr(np.asarray(result.image), np.asarray(task.truth), data_range=255),
        "perceptual": perceptual_distance(result.image, task.truth),
        "reconstruction_psnr": result.reconstruction_psnr,
    }


def mean(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.mean(run[key] for run in runs), 3) for key in runs[0]}


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "evaluations": round(statistics.mean(run["evaluations"] for run in runs), 1),
        "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
        "memory_mb": round(max(run["memory"] for run in runs) / 2**20, 1),
        "psnr": round(statistics.mean(run["psnr"] for run in runs), 2),
        "worst_psnr": round(min(run["psnr"] for run in runs), 2),
        "warned": sum(run["warned"] for run in runs),
    }


def ceiling(model: Model, picture: dict[str, Any]) -> float:
    """PSNR of the autoencoder alone."""
    image = Image.open(EXAMPLES / picture["file"]).convert("RGB")
    with torch.no_grad():
        (shown,) = to_images(model.decode_latents(model.encode_image(to_pixels(image))))
    return psnr(np.asarray(shown), np.asarray(image), data_range=255)


def machine(model: Model) -> dict[str, str]:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "processor": f"{processor}, 1 thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "sfumato": sfumato.__version__,
        "model": f"{model.name}, revision {model.revision[:12]}",
        "weights": str(model.dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    main()
