"""What a run gains and loses by features used again (`cache_interval`) and by guidance that stops early.

    python benchmarks/shortcuts.py [--model emoji] [--images 4] [--steps 50] [--out shortcuts.json]

Draws images, and edits them by SDEdit and by Prompt-to-Prompt, in full and with each shortcut, with the same seeds.
Prints processor seconds and network evaluations an image, and the PSNR of the result to that of the full run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

import sfumato
from sfumato.models.base import Model
from sfumato.watch import Watch

SHORTCUTS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "cache_interval 2": {"cache_interval": 2},
    "cache_interval 3": {"cache_interval": 3},
    "cache_interval 5": {"cache_interval": 5},
    "guidance_interval 0, 0.7": {"guidance_interval": (0.0, 0.7)},
    "guidance_interval 0, 0.5": {"guidance_interval": (0.0, 0.5)},
    "cache_interval 3, guidance_interval 0, 0.7": {"cache_interval": 3, "guidance_interval": (0.0, 0.7)},
}
PROMPTS = (
    ("a cat on a blue background", "a dog on a blue background"),
    ("a red apple and a cat on a white background", "a green apple and a cat on a white background"),
    ("a lion and a tree on a green background", "a panda and a tree on a green background"),
    ("a star on a dotted pink background", "a star on a dotted yellow background"),
)
QUIET = Watch(progress=lambda _: None)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, help="file of the figures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sfumato.load_model(args.model, device="cpu")
    found: dict[str, Any] = {"model": args.model, "images": args.images, "steps": args.steps, "runs": {}}
    for task, run in tasks(model, args.steps).items():
        whole: list[Image.Image] = []
        for name, shortcut in SHORTCUTS.items():
            begin, results = time.process_time(), [run(k, shortcut) for k in range(args.images)]
            seconds, images = time.process_time() - begin, [result.images[0] for result in results]
            whole = whole or images
            row = {
                "seconds": round(seconds / args.images, 3),
                "evaluations": sum(result.cost.evaluations for result in results) / args.images,
                "psnr": round(sum(map(psnr, images, whole)) / args.images, 1),
            }
            found["runs"].setdefault(task, {})[name] = row
            print(f"{task:18}{name:46}", json.dumps(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def tasks(model: Model, steps: int) -> dict[str, Callable[[int, Mapping[str, Any]], Any]]:
    """What is measured: a function of the number of the image and the shortcut, by name."""

    def drawn(k: int, shortcut: Mapping[str, Any]) -> Any:
        prompt = PROMPTS[k % len(PROMPTS)][0]
        return sfumato.generate(model, prompt, seed=k, num_inference_steps=steps, watch=QUIET, **shortcut)

    def edited(method: str) -> Callable[[int, Mapping[str, Any]], Any]:
        def run(k: int, shortcut: Mapping[str, Any]) -> Any:
            source, target = PROMPTS[k % len(PROMPTS)]
            return sfumato.edit(
                model, source_prompt=source, target_prompt=target, method=method, seed=k, num_inference_steps=steps,
                watch=QUIET, **shortcut,
            )  # fmt: skip

        return run

    return {"generate": drawn, "sdedit": edited("sdedit"), "prompt-to-prompt": edited("prompt-to-prompt")}


def psnr(image: Image.Image, reference: Image.Image) -> float:
    """Of two images, in dB; 99 where they are equal."""
    ours, theirs = (np.asarray(one, dtype=np.float64) / 255 for one in (image, reference))
    error = float(((ours - theirs) ** 2).mean())
    return 99.0 if error == 0 else float(-10 * np.log10(error))


if __name__ == "__main__":
    main()
