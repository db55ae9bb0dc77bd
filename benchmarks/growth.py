"""How the cost of editing methods over bare network calls grows with steps, pixels, images, targets and long prompts.

    python -m benchmarks.growth MODEL [--methods a,b] [--axes steps,images] [--points 3] [--rounds 2] [--out docs]

Along each axis one number grows and the others stay as they are (4 steps, 16x16 latents, one image, one target, prompts
of one chunk). Each method edits latents with its default options, from its first inversion (made beforehand, not
counted); its network calls are noted, and made again with nothing around them: as many rows of the same size with the
same prompts, and with a backward pass where the method made one (`bare_calls.make`). The two take turns; the least
processor time of the rounds counts. A ratio that rises along an axis is cost that grows faster than the network's own.
MODEL is whatever `sfumato.load_model` takes; the published figures are from `tests/conformance/cases/tiny-sd`. With
--out, writes growth.json after each method; what is written is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import sfumato
from benchmarks.bare_calls import BareCall, make, noted
from benchmarks.machine import processor
from benchmarks.method_cost import GUIDANCE
from sfumato.edits.method import METHODS
from sfumato.edits.task import EditTask
from sfumato.files import write_whole
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model

AXES: Mapping[str, tuple[int, ...]] = {
    "steps": (4, 8, 16),
    "latents": (8, 16, 32),
    "images": (1, 2, 4),
    "targets": (1, 2, 4),
    "chunks": (1, 2, 3),
}
MAIN = (
    "sdedit", "ddib", "diffedit", "cycle-diffusion", "edit-friendly", "prompt-to-prompt", "masactrl", "plug-and-play",
    "ledits", "pix2pix-zero",
)  # fmt: skip
THINGS = ("dog", "fox", "bear", "horse")


@dataclass(frozen=True)
class Work:
    """One edit.

    Attributes:
        steps: Of the grid.
        latents: Side of the latents.
        images: In the batch.
        targets: Target prompts.
        chunks: Of the text encoder that each prompt takes.
    """

    steps: int = 4
    latents: int = 16
    images: int = 1
    targets: int = 1
    chunks: int = 1

    def prompt(self, thing: str) -> str:
        """A prompt of that many chunks."""
        return ", ".join([f"a {thing} on a mat", *["a chair, a table and a lamp in a room"] * (7 * (self.chunks - 1))])

    @property
    def prompts(self) -> list[str]:
        """The targets."""
        return [self.prompt(thing) for thing in THINGS[: self.targets]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures what is missing, prints, writes; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--methods", default=",".join(MAIN), help="comma-separated")
    parser.add_argument("--axes", default=",".join(AXES), help="comma-separated")
    parser.add_argument("--points", type=int, default=3, help="how many numbers of each axis")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of growth.json")
    args = parser.parse_args(arguments)
    names, axes = args.methods.split(","), args.axes.split(",")
    for what, unknown in (("method", set(names) - set(METHODS)), ("axis", set(axes) - set(AXES))):
        if unknown:
            parser.error(f"unknown {what} {', '.join(sorted(unknown))}")

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # random weights bring nothing back, long prompts are meant
    model = sfumato.load_model(args.model, device="cpu")
    settings = {
        "model": Path(args.model).name,
        "axes": axes,
        "points": args.points,
        "rounds": args.rounds,
        "processor": processor(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "torch": torch.__version__,
    }
    file = args.out and args.out / "growth.json"
    report = json.loads(file.read_text("utf-8")) if file and file.is_file() else {}
    if {name: report.get(name) for name in settings} != settings:
        report = {**settings, "methods": {}}
    for name in names:
        if name in report["methods"]:
            continue
        report["methods"][name] = {axis: grown(model, name, axis, args.points, args.rounds) for axis in axes}
        print(name, json.dumps(report["methods"][name]), flush=True)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(report, indent=1) + "\n")
    return report


def grown(model: Model, name: str, axis: str, points: int, rounds: int) -> dict[str, dict[str, float]]:
    """The cost by the number that grows."""
    values = AXES[axis][:points]
    return {str(value): cost(model, name, replace(Work(), **{axis: value}), rounds) for value in values}


def cost(model: Model, name: str, work: Work, rounds: int) -> dict[str, float]:
    """Rows through the network, seconds of the edit and of its bare calls, and their ratio."""
    source = start_of(model, name, work)
    seconds, bare = [], []
    for _ in range(rounds):
        calls: list[BareCall] = []
        begun = time.process_time()
        with noted(model, calls):
            edit(model, name, source, work)
        between = time.process_time()
        make(model, calls)
        seconds.append(between - begun)
        bare.append(time.process_time() - between)
    return {
        "rows": sum(call.shape[0] for call in calls),
        "seconds": round(min(seconds), 3),
        "bare_seconds": round(min(bare), 3),
        "ratio": round(min(seconds) / min(bare), 3),
    }


def start_of(model: Model, name: str, work: Work) -> Inversion:
    """What the method starts from: its first inversion of the latents, or the latents themselves."""
    shape = (work.images, model.latent_channels, work.latents, work.latents)
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    method, generator = METHODS[name], torch.Generator().manual_seed(1)
    prompt = work.prompt("cat")
    if method.from_image:
        timesteps = tuple(model.schedule.timesteps(work.steps, latent_size=(work.latents, work.latents)))
        return Inversion("picture", torch.randn(shape, generator=generator), timesteps, trajectory=clean[None])
    entry = INVERSIONS[method.default_inversion]
    scale = GUIDANCE if entry.source_guidance_scale is None else entry.source_guidance_scale
    condition = model.encode_prompt(prompt)
    task = InversionTask(model, clean, condition, None, scale, num_inference_steps=work.steps, generator=generator)
    return replace(entry.function(task), prompt=prompt, guidance_scale=scale)


def edit(model: Model, name: str, source: Inversion, work: Work) -> None:
    """The edit itself."""
    generator = torch.Generator().manual_seed(0)
    scales = {"guidance_scale": GUIDANCE, "source_guidance_scale": source.guidance_scale}
    METHODS[name].function(EditTask(model, source, work.prompt("cat"), work.prompts, generator=generator, **scales))


if __name__ == "__main__":
    main()
