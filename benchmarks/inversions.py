"""What each inversion costs and how well the picture comes back: writes docs/inversions.md and docs/inversions.json.

    python benchmarks/inversions.py [--model emoji] [--out docs] [--steps 50] [--pictures 12] [--only NAME ...]
    python benchmarks/inversions.py [--model emoji] [--out docs] --edits

Every registered inversion, with its default options, at guidance 1 and 7.5, on the embedded example pictures, one
picture at a time: the inversion is timed, then replayed at the guidance it was made for and decoded. With --edits:
what starting from `direct` in place of `ddim` does to the gallery's six edits, by every method that takes both
(needs the emoji drawings, `python -m sfumato.emoji.training.data`). What is not run keeps the numbers of the last run.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
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
from sfumato.api.cost import measured
from sfumato.images import to_images, to_pixels
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.registry import INVERSIONS, METHODS
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample

EXAMPLES = Path(sfumato.__file__).parent / "emoji" / "examples"
GUIDANCE = (1.0, 7.5)
GALLERY = Path(__file__).parents[1] / "docs" / "gallery" / "build.py"
COMPARED, EDIT_STEPS = ("ddim", "direct"), 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=12)
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
        write(known | {"edits": {"steps": EDIT_STEPS, "methods": edits(model)}}, args.out)
        return
    pictures = json.loads((EXAMPLES / "examples.json").read_text())[: args.pictures]
    report: dict[str, Any] = {"machine": machine(model), "steps": args.steps, "pictures": len(pictures)}
    report["ceiling_psnr"] = statistics.mean(ceiling(model, picture) for picture in pictures)
    rows = report["inversions"] = known.get("inversions", {}) if args.only else {}
    report["edits"] = known.get("edits", {"steps": EDIT_STEPS, "methods": {}})
    measure(model, "ddim", pictures[0], 1.0, 2)  # the first calls of a process are slower
    for name in args.only or INVERSIONS:
        rows[name] = {
            f"{scale:g}": summary([measure(model, name, picture, scale, args.steps) for picture in pictures])
            for scale in GUIDANCE
        }
        print(name, json.dumps(rows[name]), flush=True)
        write(report, args.out)  # after each, so that a run cut short goes on with --only


def write(report: dict[str, Any], folder: Path) -> None:
    (folder / "inversions.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "inversions.md").write_text(page(report))


def measure(model: Model, name: str, picture: dict[str, Any], scale: float, steps: int) -> dict[str, Any]:
    """One picture there and back."""
    image = Image.open(EXAMPLES / picture["file"]).convert("RGB")
    clean, condition = model.encode_image(to_pixels(image)), model.encode_prompt(picture["prompt"])
    before, begun = memory(), time.process_time()
    with warnings.catch_warnings(record=True) as told, measured(model) as cost:
        warnings.simplefilter("always")
        found = INVERSIONS[name].function(
            model, clean, condition, guidance_scale=scale, num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
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
    spec = importlib.util.spec_from_file_location("gallery", GALLERY)
    assert spec is not None
    assert spec.loader is not None
    gallery = sys.modules["gallery"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    tasks, found = gallery.tasks(), {}
    for name, entry in METHODS.items():
        if name == "auto" or not set(COMPARED) <= set(entry.starts):  # auto runs the others
            continue
        found[name] = {
            inversion: mean([edited(gallery, model, task, name, inversion) for task in tasks])
            for inversion in dict.fromkeys([*COMPARED, entry.default_inversion])
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def edited(gallery: Any, model: Model, task: Any, method: str, inversion: str) -> dict[str, float]:
    """One edit of the gallery, held against its exact target."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sfumato.edit(
            model, task.source, source_prompt=task.source_prompt, target_prompt=task.target_prompt, method=method,
            inversion=inversion, num_inference_steps=EDIT_STEPS,
        )  # fmt: skip
    return {
        "psnr": psnr(np.asarray(result.image), np.asarray(task.truth), data_range=255),
        "perceptual": gallery.perceptual_distance(result.image, task.truth),
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


def memory() -> int:
    """Bytes that the process holds now, after giving back what it can."""
    gc.collect()
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


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


def page(report: dict[str, Any]) -> str:
    """The table, and how to read it."""
    rows = [
        "| inversion | evaluations at guidance 1 / 7.5 | seconds | memory, MB | PSNR at 1 | PSNR at 7.5 | serves |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_scale in report["inversions"].items():
        if name not in INVERSIONS:
            continue
        one, guided = by_scale["1"], by_scale["7.5"]
        serves = [method for method, entry in METHODS.items() if name in entry.starts]
        cells = [
            f"`{name}`",
            f"{one['evaluations']:g} / {guided['evaluations']:g}",
            f"{one['seconds']:.1f} / {guided['seconds']:.1f}",
            f"{one['memory_mb']:.0f} / {guided['memory_mb']:.0f}",
            *(f"{shown['psnr']:.1f} (worst {shown['worst_psnr']:.1f})" + warned(shown) for shown in (one, guided)),
            ", ".join(serves) or "none yet",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    stated = "\n".join(f"- {key}: {value}" for key, value in report["machine"].items())
    best = report["ceiling_psnr"]
    best_text = f"{best:.1f} dB" if math.isfinite(best) else "infinite"
    return f"""# Inversions, measured

An inversion finds the noise, and whatever else a replay needs, that leads back to a picture. This page is written by
`python benchmarks/inversions.py`: every inversion with its default options, {report["steps"]} steps,
{report["pictures"]} example pictures of the embedded model one at a time, inverted for a source branch at guidance 1
and at 7.5 and replayed at the same guidance. `docs/inversions.json` holds the same numbers.

**Ceiling: {best_text}.** That is the autoencoder alone; no reconstruction can be much better.

{chr(10).join(rows)}

How to read it:

- *Evaluations* are rows through the network for one picture, the mean over the pictures. *Seconds* are processor time
  of one thread for the inversion alone, the median. *Memory* is what the inversion took over what the process held
  before it, the largest; most of it is the network's own activations, and null-text keeps these for its backward pass.
- *PSNR* compares the replay, decoded, with the picture: mean and worst; and on how many pictures the inversion itself
  warned that it had missed.
- `ddim` and `regularised-ddim` invert without guidance whatever the replay's is: `sfumato edit` therefore runs their
  source branch at guidance 1, and only the edited branches are guided.
- `direct` sets the source branch to the inverted trajectory after every step, so it is at the ceiling by construction
  and says nothing of how well the model by itself leads back; `ddim` does. `bdia` gets there by sampling alone, as its
  step can be solved backwards, `edit-friendly` and `dpm-encoder` by keeping the noise of each stochastic step.
- `negative-prompt` replays at any guidance as `ddim` does at 1.
- A source that comes back is not yet a good edit. At guidance 7.5 an inversion may push the noise far from normal to
  get there, and what is edited from such noise looks it: prefer the source at guidance 1 where it can be chosen.

## The default

**`direct`**, for every method that takes it but pix2pix-zero, and for `sfumato invert`. It costs what `ddim` costs,
the source comes back as well or better, and the edits are no worse in the mean: the same six edits as in the
[gallery](gallery/README.md), {report["edits"]["steps"]} steps, each method from either inversion. PSNR and perceptual
distance are those to the exact target. `auto` runs some of these methods and is not measured by itself.

{chr(10).join(edit_rows(report["edits"]["methods"]))}

- Prompt-to-Prompt reads the source's attention maps: with `direct` these are the picture's own. MasaCtrl, Plug-and-Play
  and DiffEdit read the trajectory of either inversion, and DDIB reads only its end: the edited picture is the same, bit
  for bit. Outside a mask the image stays with either.
- The guidance of the source branch is 1 with `direct`, too. Its prediction is replaced by the trajectory, and what is
  read from it is computed before guidance is applied, so that the edits at 1 and at the model's own guidance are the
  same, bit for bit; the replay alone costs half at 1.
- pix2pix-zero starts from `regularised-ddim`, as its paper does; on these edits that gains nothing.

Measured with:

{stated}
"""


def edit_rows(methods: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The second table; the default inversion of a method is marked."""
    rows = ["| method | from | PSNR | perceptual distance | source comes back |", "|---|---|---|---|---|"]
    for name, by_inversion in methods.items():
        for inversion, shown in by_inversion.items() if name in METHODS else ():
            marked = " (default)" if inversion == METHODS[name].default_inversion else ""
            rows.append(
                f"| {name} | `{inversion}`{marked} | {shown['psnr']:.2f} dB | {shown['perceptual']:.3f} |"
                f" {shown['reconstruction_psnr']:.1f} dB |"
            )
    return rows


def warned(shown: dict[str, float]) -> str:
    return f", {shown['warned']} warned" if shown["warned"] else ""


if __name__ == "__main__":
    main()
