"""Time and peak memory of editing methods beside the same number of bare network calls.

    python benchmarks/method_cost.py MODEL [--methods a,b] [--latents 64] [--steps 10] [--rounds 2] [--json FILE]

Each method edits the same latents with its default options, from its first inversion (made beforehand, not counted);
bare network calls on four rows run before and after it. Prints seconds, network evaluations, the seconds that as many
bare evaluations take, their ratio, and the process's peak memory, libraries and weights included. A ratio well above 1
has a reason of its own: pix2pix-zero differentiates through the network. MODEL is whatever `sfumato.load_model` takes;
the README's figures are from `tests/conformance/cases/tiny-sd`, completed by the test set-up.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sfumato
from sfumato.cost import Cost, measured
from sfumato.inversion.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.registry import INVERSIONS, METHODS

SOURCE, TARGET = "a cat on a mat", "a dog on a mat"
GUIDANCE = 7.5


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--methods", default="prompt-to-prompt", help="comma-separated, or 'all'")
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    warnings.simplefilter("ignore")  # random weights bring nothing back
    model = sfumato.load_model(_complete(args.model), device="cpu")
    shape = (1, model.latent_channels, args.latents, args.latents)
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    names = list(METHODS) if args.methods == "all" else args.methods.split(",")
    rows: dict[str, Any] = {}
    for name in names:
        start = _start(model, clean, name, args.steps)
        bare = [_bare_evaluation(model, clean)]
        costs = [_run(model, name, start) for _ in range(args.rounds)]
        bare.append(_bare_evaluation(model, clean))
        seconds, evaluations = min(cost.seconds for cost in costs), costs[0].evaluations
        rows[name] = {
            "evaluations": evaluations,
            "seconds": round(seconds, 2),
            "bare_seconds": round(min(bare) * evaluations, 2),
            "ratio": round(seconds / (min(bare) * evaluations), 3),
            "peak_memory_gb": round(max(cost.peak_memory for cost in costs) / 2**30, 2),
        }
        print(name, json.dumps(rows[name]), flush=True)
    report = {
        "model": Path(args.model).name,
        "latents": args.latents,
        "steps": args.steps,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "methods": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _start(model: Model, clean: Tensor, name: str, steps: int) -> Inversion:
    """What the method starts from: its first inversion of the latents, or the latents themselves."""
    method, generator = METHODS[name], torch.Generator().manual_seed(0)
    if not method.inversions:
        timesteps = tuple(model.schedule.timesteps(steps))
        return Inversion("picture", torch.randn(clean.shape, generator=generator), timesteps, trajectory=clean[None])
    entry = INVERSIONS[method.inversions[0]]
    scale = GUIDANCE if entry.source_guidance_scale is None else entry.source_guidance_scale
    made: Inversion = entry.function(
        model, clean, model.encode_prompt(SOURCE), guidance_scale=scale, num_inference_steps=steps, generator=generator
    )
    return replace(made, prompt=SOURCE, guidance_scale=scale)


def _run(model: Model, name: str, start: Inversion) -> Cost:
    with measured(model) as cost:
        METHODS[name].function(
            model,
            start,
            source_prompt=SOURCE,
            target_prompts=[TARGET],
            guidance_scale=GUIDANCE,
            source_guidance_scale=start.guidance_scale,
            generator=torch.Generator().manual_seed(0),
        )
    return cost


@torch.no_grad()
def _bare_evaluation(model: Model, latents: Tensor, calls: int = 4) -> float:
    """Seconds of the network alone for one row, in calls of four rows."""
    condition = Condition(model.encode_prompt(["", "", SOURCE, TARGET]).prompt_embeds)
    rows = latents.expand(4, -1, -1, -1).contiguous()
    begun = time.perf_counter()
    for _ in range(calls):
        model.predict(rows, 500, condition)
    return (time.perf_counter() - begun) / (4 * calls)


def _complete(name: str) -> str:
    """The committed tiny-sd lacks its tokenizer: builds it in a temporary folder, as the tests do."""
    folder = Path(name)
    if not folder.is_dir() or (folder / "tokenizer").is_dir():
        return name
    import sys
    import tempfile

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.conformance.tiny_sd import complete_tiny_sd

    return str(complete_tiny_sd(folder.parent, Path(tempfile.mkdtemp())))


if __name__ == "__main__":
    main()
