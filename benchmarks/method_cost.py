"""Time and peak memory of Prompt-to-Prompt beside the same number of bare network calls.

    python benchmarks/prompt_to_prompt_cost.py MODEL [--latents 64] [--steps 10] [--rounds 3] [--json FILE]

Runs a word swap with both attention injections, and the bare network on the same rows, alternately, `rounds` times;
prints the least time of each, their ratio, and the process's peak memory over weights and libraries. MODEL is whatever
`sfumato.load_model` takes; the README's figures are from `tests/conformance/cases/tiny-sd`, completed by the test
set-up.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

import sfumato
from sfumato.cost import measured
from sfumato.edit.prompt_to_prompt import prompt_to_prompt
from sfumato.inversion.result import Inversion
from sfumato.models.base import Condition, Model

PROMPTS = ("a cat on a mat", "a dog on a mat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    model = sfumato.load_model(_complete(args.model), device="cpu")
    noise = torch.randn(
        1, model.latent_channels, args.latents, args.latents, generator=torch.Generator().manual_seed(0)
    )
    start = Inversion("drawn", noise, tuple(model.schedule.timesteps(args.steps)))
    edits, bare = [], []
    for _ in range(args.rounds):
        with measured(model) as cost:
            prompt_to_prompt(model, start, source_prompt=PROMPTS[0], target_prompts=PROMPTS[1:])
        edits.append(cost)
        bare.append(_bare_calls(model, noise, start.timesteps))
    best = min(cost.seconds for cost in edits)
    report = {
        "model": model.name,
        "latents": args.latents,
        "steps": args.steps,
        "evaluations": edits[0].evaluations,
        "seconds": round(best, 2),
        "bare_seconds": round(min(bare), 2),
        "ratio": round(best / min(bare), 3),
        "peak_memory_gb": round(max(cost.peak_memory for cost in edits) / 2**30, 2),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


@torch.no_grad()
def _bare_calls(model: Model, noise: torch.Tensor, timesteps: tuple[int, ...]) -> float:
    """Seconds of the network alone, on as many rows as the edit: 2 branches x 2 guidance halves a step."""
    condition = model.encode_prompt(["", "", *PROMPTS])
    rows = noise.expand(4, -1, -1, -1).contiguous()
    begun = time.perf_counter()
    for t in timesteps:
        model.predict(rows, t, Condition(condition.prompt_embeds))
    return time.perf_counter() - begun


def _complete(name: str) -> str:
    """The committed tiny-sd lacks its tokenizer: builds it in a temporary folder, as the tests do."""
    folder = Path(name)
    if not folder.is_dir() or (folder / "tokenizer").is_dir():
        return name
    import tempfile

    from tests.conformance.tiny_sd import complete_tiny_sd

    return str(complete_tiny_sd(folder.parent, Path(tempfile.mkdtemp())))


if __name__ == "__main__":
    main()
