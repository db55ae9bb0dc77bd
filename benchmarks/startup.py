"""What a cold `sfumato edit` costs beside its imports and weights, and a whole edit beside its network calls.

    python -m benchmarks.startup [--model emoji] [--methods a,b] [--steps 10] [--rounds 5] [--out docs]

Cold: processes that each start afresh, in turn: one that imports the classes of torch, diffusers and transformers that
are used and loads the same weights with them, `sfumato edit --steps 1`, `import sfumato`, and `sfumato --help`. Warm:
for each method a process that edits the image once, then times whole edits (`sfumato.edit`: reading, encoding,
inverting, editing, decoding, measuring) and, after each, the same network calls by themselves, without hooks and
without gradients. Each figure is the least of all rounds. MODEL is `emoji` or a diffusers folder of Stable Diffusion's
layout. With --out, writes startup.json, of which `make pages` makes docs/startup.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import sfumato
from benchmarks.machine import processor
from sfumato.edits.method import METHODS
from sfumato.emoji import EXAMPLES, WEIGHTS
from sfumato.files import write_whole

IMAGE = EXAMPLES / "cat.png"
SOURCE, TARGET = "a cat", "a dog"
LEFT_OUT = ("auto", "langevin")
"""They run the other methods, or need a judge of images."""

BARE = """
import sys
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

classes = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
classes |= {"tokenizer": CLIPTokenizer, "scheduler": DDIMScheduler}
for part, kind in classes.items():
    kind.from_pretrained(sys.argv[1], subfolder=part)
"""


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints, writes; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji", help="emoji, or a diffusers folder")
    parser.add_argument("--methods", default="all", help="comma-separated, or 'all' that the model serves")
    parser.add_argument("--steps", type=int, default=10, help="of warm edits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder of the file")
    args = parser.parse_args(words)
    report: dict[str, Any] = {
        "model": Path(args.model).name,
        "steps": args.steps,
        "rounds": args.rounds,
        "processor": processor(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "cold": cold(args.model, args.rounds),
        "warm": {},
    }
    print(json.dumps(report["cold"]), flush=True)
    for name in [one for one in METHODS if one not in LEFT_OUT] if args.methods == "all" else args.methods.split(","):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            row = pool.submit(warm, args.model, name, args.steps, args.rounds).result()
        if row is None:
            continue
        report["warm"][name] = row
        print(name, json.dumps(row), flush=True)
        if args.out:
            write_whole(args.out / "startup.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def cold(model: str, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of the processor, and of the clock, that processes take, each started afresh."""
    weights = WEIGHTS if model == "emoji" else Path(model)
    with tempfile.TemporaryDirectory() as folder:
        edit = ["edit", str(IMAGE), "--source", SOURCE, "--target", TARGET, "--steps", "1", "--model", model]
        programs = {
            "bare": ["-c", BARE, str(weights)],
            "edit": ["-m", "sfumato", *edit, "--device", "cpu", "--output", str(Path(folder) / "out.png")],
            "import": ["-c", "import sfumato"],
            "help": ["-m", "sfumato", "--help"],
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, arguments in programs.items():
                measured[name].append(_process_seconds(arguments))
    least = {name: [min(column) for column in zip(*pairs, strict=True)] for name, pairs in measured.items()}
    return {name: {"processor": round(used, 2), "clock": round(passed, 2)} for name, (used, passed) in least.items()}


def _process_seconds(arguments: list[str]) -> tuple[float, float]:
    """Seconds of the processor and of the clock that a Python process takes; what Python compiles is kept."""
    before, begun = os.times(), time.perf_counter()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=kept, check=False)
    passed, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise SystemExit(f"{arguments} failed:\n{done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, passed


def warm(model_name: str, method: str, steps: int, rounds: int) -> dict[str, Any] | None:
    """Seconds of the processor that an edit takes, and its network calls by themselves; None: the model cannot."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a few steps may bring little back
    model = sfumato.load_model(model_name, device="cpu")
    calls: list[tuple[Any, ...]] = []
    predict = model.predict

    def recorded(latents: torch.Tensor, *others: Any) -> torch.Tensor:
        calls.append((latents.detach(), *others))
        return predict(latents, *others)

    def edit(count: int) -> None:
        sfumato.edit(model, IMAGE, source_prompt=SOURCE, target_prompt=TARGET, method=method, num_inference_steps=count)

    def replay() -> None:
        with torch.no_grad():
            for call in calls:
                predict(*call)

    try:
        edit(2)
    except (sfumato.SfumatoError, ValueError):
        return None
    model.predict = recorded  # type: ignore[method-assign]
    edit(steps)
    del model.predict
    seconds, bare = [], []
    for _ in range(rounds):
        seconds.append(_used_by(lambda: edit(steps)))
        bare.append(_used_by(replay))
    return {
        "calls": len(calls),
        "rows": sum(len(latents) for latents, *_ in calls),
        "seconds": round(min(seconds), 3),
        "bare_seconds": round(min(bare), 3),
        "ratio": round(min(seconds) / min(bare), 3),
    }


def _used_by(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
