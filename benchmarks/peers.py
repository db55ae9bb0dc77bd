"""sfumato beside diffusers' own pipelines of the same methods, on the same weights, latents and random numbers.

    python -m benchmarks.peers MODEL [--methods a,b] [--latents 64] [--steps 5] [--rounds 2] [--community FOLDER]
        [--out docs]

Each pair of `benchmarks.peer_methods` runs in a process of its own, one side after the other in turns, each on weights
of its own and after a small edit that is not counted. Measures of the edit, inversion included: processor and wall
seconds (the least of the rounds), rows through the network and its calls, counted at the network, and the most memory
that the process held above what it held before. Then how far the two results are apart: the largest difference of the
latents, and their PSNR over the range of diffusers' result. MODEL is a folder of Stable Diffusion 1; the published
figures are from `tests/conformance/cases/tiny-sd`. Prompt-to-Prompt and null-text inversion are files of diffusers'
examples/community: give the folder that has them, else the two are left out. With --out, writes peers.json after each
pair, by size; what is written is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.machine import memory, processor
from benchmarks.peer_methods import PAIRS, Job, Side, network_of
from sfumato.api.cost import peak, reset_peak
from sfumato.files import write_whole
from sfumato.metrics import mse

SIDES = ("theirs", "ours")
WARM_UP = {"latents": 16, "steps": 2}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures what is missing, prints, writes; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--methods", default="all", help=f"comma-separated, of {', '.join(PAIRS)}")
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--community", type=Path, help="folder with diffusers' examples/community")
    parser.add_argument("--together", action="store_true", help="in one process; memory then says little")
    parser.add_argument("--out", type=Path, help="folder of peers.json")
    args = parser.parse_args(arguments)
    names = list(PAIRS) if args.methods == "all" else args.methods.split(",")
    if unknown := [name for name in names if name not in PAIRS]:
        parser.error(f"unknown method {', '.join(unknown)}; there are {', '.join(PAIRS)}")

    settings = {
        "model": Path(args.model).name,
        "steps": args.steps,
        "rounds": args.rounds,
        "threads": 1,
        "processor": processor(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    file = args.out and args.out / "peers.json"
    report = json.loads(file.read_text("utf-8")) if file and file.is_file() else {}
    of_size = report.setdefault(str(args.latents), {})
    if {name: of_size.get(name) for name in settings} != settings:
        of_size = report[str(args.latents)] = {**settings, "methods": {}}
    job = Job(args.model, args.latents, args.steps, args.community)
    for name in names:
        if name in of_size["methods"] or not at_hand(job, name):
            continue
        if args.together:
            of_size["methods"][name] = compared(job, name, args.rounds)
        else:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                of_size["methods"][name] = pool.submit(compared, job, name, args.rounds).result()
        print(name, json.dumps(of_size["methods"][name]), flush=True)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(report, indent=1) + "\n")
    return report


def at_hand(job: Job, name: str) -> bool:
    """Whether the pipeline is there; says so where it is not."""
    pair = PAIRS[name]
    there = hasattr(diffusers, pair.pipeline) if pair.file is None else bool(job.community)
    if pair.file is not None and job.community:
        there = (job.community / pair.file).is_file()
    if not there:
        print(f"{name}: left out, {pair.pipeline} is not at hand ({pair.file or 'diffusers'})", file=sys.stderr)
    return there


def compared(job: Job, name: str, rounds: int) -> dict[str, Any]:
    """One pair, as a row of the report."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sides = {side: getattr(PAIRS[name], side) for side in SIDES}
    weights = {side: implementation.load(job) for side, implementation in sides.items()}
    for side, implementation in sides.items():
        implementation.run(weights[side], replace(job, **WARM_UP))
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    results: dict[str, Tensor] = {}
    for _ in range(rounds):
        for side, implementation in sides.items():
            run, results[side] = measured(implementation, weights[side], job)
            runs[side].append(run)
    ours, theirs = results["ours"], results["theirs"]
    span = float(theirs.max() - theirs.min())
    return {
        "pipeline": PAIRS[name].pipeline,
        **{side: best(runs[side]) for side in SIDES},
        "max_difference": float((ours - theirs).abs().max()),
        "range": round(span, 2),
        "psnr": round(10 * math.log10(span**2 / max(mse(ours, theirs), 1e-30)), 1),
    }


def measured(side: Side, weights: Any, job: Job) -> tuple[dict[str, Any], Tensor]:
    """One edit by one side: what it took, and its clean latents."""
    rows: list[int] = []

    def count(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.append(len(inputs[0] if inputs else named["sample"]))

    hook = network_of(weights).register_forward_pre_hook(count, with_kwargs=True)
    held = memory()
    reset_peak()
    begun = time.process_time(), time.perf_counter()
    latents = side.run(weights, job)
    seconds = [now - then for now, then in zip((time.process_time(), time.perf_counter()), begun, strict=True)]
    took = {"seconds": seconds[0], "wall": seconds[1], "rows": sum(rows), "calls": len(rows), "memory": peak() - held}
    hook.remove()
    return took, latents.detach().float().clone()


def best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The least of each time, and the most memory."""
    return {
        "seconds": round(min(run["seconds"] for run in runs), 2),
        "wall_seconds": round(min(run["wall"] for run in runs), 2),
        "rows": runs[0]["rows"],
        "calls": runs[0]["calls"],
        "memory_mb": round(max(run["memory"] for run in runs) / 2**20),
    }


if __name__ == "__main__":
    main()
