"""Time and peak memory of editing methods beside the same number of bare network calls.

    python -m benchmarks.method_cost MODEL [--methods a,b] [--latents 64] [--steps 10] [--rounds 2]
        [--set METHOD.NAME=VALUE ...] [--out docs]

Each method edits the same latents with its default options, from its first inversion (made beforehand, not counted), in
a process of its own; bare network calls on four rows (of flow models, on as many as the method's have, and prompts are
read beforehand) run before and after each round, for two seconds at least. Measures processor seconds, network
evaluations, the seconds that as many bare evaluations take, their ratio, and the process's peak memory, libraries and
weights included. Where a method differentiates through the network, the bare calls are its own, made again after each
round with nothing around them: each on as many rows with the same prompts, with a backward pass where the method made
one (`bare_calls.make` says what that is), and calls of the decoder for its energy likewise. MODEL is whatever
`sfumato.load_model` takes, or `toy-sd3` or `toy-flux`: the pipelines of `tests/toy_flow.py` at a width of 256. The
published figures are from `tests/conformance/cases/tiny-sd`. With --out, writes method-cost.json, or
method-cost-MODEL.json for a toy, after each method; what is written is not run again. With --together all methods run
in one process, whose memory is not measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

import sfumato
from benchmarks.bare_calls import BareCall, make, noted
from benchmarks.machine import processor
from sfumato.api.cost import Cost, measured
from sfumato.edits.method import METHODS
from sfumato.edits.task import EditTask
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.models.flow_transformer import FlowTransformer

TOYS = ("toy-sd3", "toy-flux")
SOURCE, TARGET = "a cat on a mat", "a dog on a mat"
GUIDANCE = 7.5
BARE_SECONDS = 2.0
"""Of bare network calls at a time, at least: two calls of a small network are a lucky moment or an unlucky one."""


def main() -> None:
    """Measures what is missing, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--methods", default="prompt-to-prompt", help="comma-separated, or 'all'")
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="METHOD.NAME=VALUE", help="options of a method")
    parser.add_argument("--together", action="store_true", help="in one process")
    parser.add_argument("--out", type=Path, help="folder of the two files")
    args = parser.parse_args()

    settings = {
        "model": Path(args.model).name,
        "latents": args.latents,
        "steps": args.steps,
        "rounds": args.rounds,
        "threads": 1,
        "processor": processor(),
        "torch": torch.__version__,
    }
    file = args.out and args.out / (f"method-cost-{args.model}.json" if args.model in TOYS else "method-cost.json")
    report = json.loads(file.read_text("utf-8")) if file and file.is_file() else {}
    if {name: report.get(name) for name in settings} != settings:
        report = {**settings, "methods": {}}
    names, options = list(METHODS) if args.methods == "all" else args.methods.split(","), read_options(args.set)
    model = args.model
    for name in names:
        if name in report["methods"]:
            continue
        run = partial(_measure, model, name, options.get(name, {}), args.latents, args.steps, args.rounds)
        if args.together:
            report["methods"][name] = {**run(), "peak_memory_gb": None}
        else:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                report["methods"][name] = pool.submit(run).result()
        print(name, json.dumps(report["methods"][name]), flush=True)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def read_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """METHOD.NAME=VALUE to options by method.

    Raises:
        UsageError: A name is unknown, or a value does not fit.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        method, _, option = name.partition(".")
        entry = METHODS[method]
        entry.check_options({option: None} if option not in entry.parameters else {})
        found.setdefault(method, {})[option] = entry.parameters[option].parse(value)
    return found


def _measure(
    model_name: str, name: str, options: Mapping[str, Any], latents: int, steps: int, rounds: int
) -> dict[str, Any]:
    """One method, as a row of the report."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # random weights bring nothing back
    model = sfumato.load_model(_toy(model_name) if model_name in TOYS else model_name, device="cpu")
    shape = (1, model.latent_channels, latents, latents)
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    start = start_of(model, clean, name, steps)
    rows = 4
    if isinstance(model, FlowTransformer):
        for prompt in (SOURCE, TARGET, ""):  # in a model this small, reading them would count
            model.give_prompt(prompt, model.encode_prompt(prompt))
        rows = _rows_of_a_call(model, lambda: run_method(model, name, start, options))
    bare, mirrored, costs = [], [], list[tuple[float, Cost]]()
    for _ in range(rounds):
        bare.append(bare_evaluation(model, clean, rows=rows, least=BARE_SECONDS))
        calls: list[BareCall] = []
        with noted(model, calls):
            costs.append(run_method(model, name, start, options))
        if any(call.backward for call in calls):
            begun = time.process_time()
            make(model, calls)
            mirrored.append(time.process_time() - begun)
    bare.append(bare_evaluation(model, clean, rows=rows, least=BARE_SECONDS))
    seconds, evaluations = min(seconds for seconds, _ in costs), costs[0][1].evaluations
    bare_seconds = min(mirrored) if mirrored else min(bare) * evaluations
    return {
        "options": dict(options),
        "evaluations": evaluations,
        **({"with_backward": sum(c.shape[0] for c in calls if c.condition and c.backward)} if mirrored else {}),
        "seconds": round(seconds, 2),
        "bare_seconds": round(bare_seconds, 2),
        "ratio": round(seconds / bare_seconds, 3),
        "peak_memory_gb": round(max(cost.peak_memory for _, cost in costs) / 2**30, 2),
    }


def _toy(name: str) -> Any:
    """A pipeline of random weights that is wide enough for the network to take most of the time."""
    from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

    return toy_flux_pipeline(head_dim=64) if name == "toy-flux" else toy_sd3_pipeline(newer=True, head_dim=64)


def _rows_of_a_call(model: Model, run: Callable[[], Any]) -> int:
    """How many rows a network call of a run has on average."""
    calls, predict = 0, model.predict

    def counted(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return predict(*args)

    before = model.evaluations
    model.predict = counted  # type: ignore[method-assign]
    try:
        run()
    finally:
        del model.predict
    return max(1, round((model.evaluations - before) / calls))


def start_of(model: Model, clean: Tensor, name: str, steps: int) -> Inversion:
    """What the method starts from: its first inversion of the latents, or the latents themselves."""
    method, generator = METHODS[name], torch.Generator().manual_seed(0)
    if method.from_image:
        timesteps = tuple(model.schedule.timesteps(steps, latent_size=(clean.shape[-2], clean.shape[-1])))
        return Inversion("picture", torch.randn(clean.shape, generator=generator), timesteps, trajectory=clean[None])
    entry = INVERSIONS[method.default_inversion]
    scale = GUIDANCE if entry.source_guidance_scale is None else entry.source_guidance_scale
    condition = model.encode_prompt(SOURCE)
    made = entry.function(
        InversionTask(model, clean, condition, None, scale, num_inference_steps=steps, generator=generator)
    )
    return replace(made, prompt=SOURCE, guidance_scale=scale)


def run_method(
    model: Model,
    name: str,
    start: Inversion,
    options: Mapping[str, Any],
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, Cost]:
    """Seconds by the clock, and the cost."""
    begun = clock()
    with measured(model) as cost:
        task = EditTask(
            model,
            start,
            SOURCE,
            [TARGET],
            guidance_scale=GUIDANCE,
            source_guidance_scale=start.guidance_scale,
            generator=torch.Generator().manual_seed(0),
            mask=_half(start.noise) if name == "kv-edit" else None,  # which edits the inside of a mask alone
        )
        METHODS[name].function(task, **options)
    return clock() - begun, cost


def _half(latents: Tensor) -> Tensor:
    """A mask of the left half."""
    mask = torch.zeros(1, 1, *latents.shape[-2:])
    mask[..., : latents.shape[-1] // 2] = 1.0
    return mask


@torch.no_grad()
def bare_evaluation(
    model: Model,
    latents: Tensor,
    *,
    rows: int = 4,
    least: float = 0.0,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Seconds by the clock that the network alone takes for one row, in two calls of some rows, or more.

    Args:
        model: Its network is called.
        latents: The first image is taken, (batch, channels, height, width).
        rows: Of a call.
        least: Seconds that are to pass.
        clock: Tells them.
    """
    condition = model.encode_prompt(["", "", SOURCE, TARGET][:rows] + [TARGET] * (rows - 4))
    batch = latents[:1].expand(rows, -1, -1, -1).contiguous()
    begun, calls = clock(), 0
    while calls < 2 or clock() - begun < least:
        model.predict(batch, 500, condition)
        calls += 1
    return (clock() - begun) / (rows * calls)


if __name__ == "__main__":
    main()
