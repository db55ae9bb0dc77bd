"""Trains the embedded model, stage by stage, on processors and GPUs alike:

    python -m sfumato.emoji.training.train autoencoder=2 diffusion=6 judge=1 clip=1

Each stage has a budget of minutes; stages run in the order `autoencoder`, `diffusion` (text encoder and UNet),
`judge` (the independent judge of the figures), `clip` (the text-image dual encoder). A stage that was stopped goes on
from its last checkpoint, one whose minutes are used up is left alone. At the end stand the weights, in files of at most
15 MB, and a sheet of samples. On a processor, glibc returns the big buffers of every step to the system unless told not
to: `MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=34359738368` in the environment helps.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from sfumato.emoji.render import ATLAS, Atlas
from sfumato.emoji.scenes import load_concepts
from sfumato.emoji.training.data import cache_folder
from sfumato.emoji.training.loop import Settings, console
from sfumato.emoji.training.networks import SIZES, Widths
from sfumato.errors import SfumatoError

STAGES = ("autoencoder", "diffusion", "judge", "clip")


@dataclass(frozen=True)
class Pace:
    """How a stage is trained, unless told otherwise: samples a step and peak learning rate."""

    batch: int
    learning_rate: float
    ema_decay: float


ON_PROCESSOR = {
    "autoencoder": Pace(32, 1.2e-3, 0.998),
    "diffusion": Pace(32, 1e-3, 0.998),
    "judge": Pace(32, 2e-3, 0.995),
    "clip": Pace(128, 1e-3, 0.995),
}
ON_GPU = {
    "autoencoder": Pace(128, 1e-3, 0.998),
    "diffusion": Pace(384, 1.2e-3, 0.999),
    "judge": Pace(192, 2e-3, 0.995),
    "clip": Pace(384, 1e-3, 0.995),
}


@dataclass(frozen=True)
class Plan:
    """What all stages are told.

    Attributes:
        atlas: The drawings of the world.
        widths: Sizes of the networks.
        folder: Where checkpoints, logs and sheets go.
        out: Where the weights go.
        start_from: Folder of a model whose autoencoder is trained further, or None.
        go_on_from: Folder of a model whose text encoder and UNet are trained further, or None.
        attention_weight: Of the loss that holds words to their things; 0 for none.
        pool_size: Scenes that the diffusion stage keeps encoded.
    """

    atlas: Atlas
    widths: Widths
    folder: Path
    out: Path
    start_from: Path | None = None
    go_on_from: Path | None = None
    attention_weight: float = 0.05
    pool_size: int = 8_000


def run_stage(stage: str, plan: Plan, settings: Settings) -> None:
    """Runs one stage and writes its weights.

    Args:
        stage: One of `STAGES`.
        plan: See `Plan`.
        settings: See `Settings`.

    Raises:
        SystemExit: An earlier stage has not been run.
        ModelError: The model to go on from does not fit.
    """
    if stage == "autoencoder":
        from sfumato.emoji.training.autoencoder import train_autoencoder

        trained = train_autoencoder(plan.atlas, plan.widths, settings, start_from=plan.start_from)
        trained.save_pretrained(plan.folder / "autoencoder")
    elif stage == "diffusion":
        _diffusion(plan, settings)
    elif stage == "judge":
        from sfumato.emoji.training.judge import train_judge

        train_judge(plan.atlas, settings, plan.out)
    else:
        from sfumato.emoji.training.dual_encoder import train_dual_encoder

        train_dual_encoder(plan.atlas, _tokenizer(plan), settings, plan.out)


def _tokenizer(plan: Plan) -> Any:
    from sfumato.emoji.training.tokenizer import build_tokenizer

    # of all that the package can draw, so that a smaller world's weights can go on with a larger one
    return build_tokenizer([*load_concepts(), *plan.atlas.world.concepts], plan.folder / "tokenizer")


def _diffusion(plan: Plan, settings: Settings) -> None:
    from sfumato.emoji.training.diffusion import train_diffusion

    finished = plan.folder / "autoencoder"
    if not finished.is_dir() and plan.start_from is not None:
        finished = plan.start_from / "vae"
    if not finished.is_dir():
        raise SystemExit(f"error: no finished autoencoder in {plan.folder}: run that stage first, or give --start-from")
    autoencoder, tokenizer = AutoencoderKL.from_pretrained(finished), _tokenizer(plan)
    train_diffusion(
        plan.atlas,
        plan.widths,
        autoencoder,
        tokenizer,
        settings,
        attention_weight=plan.attention_weight,
        pool_size=plan.pool_size,
        go_on_from=plan.go_on_from,
        export_to=plan.out,
    )


def _budgets(words: list[str]) -> dict[str, float]:
    """Minutes by stage, in the order of `STAGES`.

    Raises:
        ValueError: Something other than STAGE=MINUTES.
    """
    given = {}
    for word in words:
        stage, _, minutes = word.partition("=")
        if stage not in STAGES:
            raise ValueError(f"no stage {stage!r}; stages are {', '.join(STAGES)}")
        try:
            given[stage] = float(minutes)
        except ValueError:
            raise ValueError(f"{word!r} names no minutes: write {stage}=5") from None
        if not 0 < given[stage] < 100_000:
            raise ValueError(f"the minutes of {stage} must be above 0, got {minutes}")
    return {stage: given[stage] for stage in STAGES if stage in given}


def _parser() -> argparse.ArgumentParser:
    """All that the command takes."""
    parser = argparse.ArgumentParser(
        prog="python -m sfumato.emoji.training.train", description="Train the embedded model."
    )
    parser.add_argument("stages", nargs="+", metavar="STAGE=MINUTES", help=f"of {', '.join(STAGES)}")
    parser.add_argument(
        "--atlas", type=Path, default=ATLAS, help="drawings, from `python -m sfumato.emoji.training.atlas`"
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="sizes of the networks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="samples a step, of every stage that is named")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate, of every stage that is named")
    parser.add_argument(
        "--workers", type=int, help="threads that share a step; default: the cores, at most 4; 1 on GPUs"
    )
    parser.add_argument("--save-minutes", type=float, default=8, help="time between checkpoints")
    parser.add_argument("--folder", type=Path, help="checkpoints, logs, sheets; default: in the cache")
    parser.add_argument("--out", type=Path, help="where the weights go; default: FOLDER/weights")
    parser.add_argument(
        "--start-from", type=Path, help="a model whose autoencoder is trained further, or used as it is"
    )
    parser.add_argument("--go-on-from", type=Path, help="a model whose text encoder and UNet are trained further")
    parser.add_argument("--attention-weight", type=float, default=0.05, help="0: words are not held to their things")
    parser.add_argument("--pool", type=int, help="scenes that the diffusion stage keeps encoded")
    return parser


def main(words: list[str] | None = None) -> None:
    """The command; `words` in place of the process's own arguments."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.start_from and not (arguments.start_from / "vae").is_dir():
        parser.error(f"--start-from {arguments.start_from}: no folder 'vae' in it")
    if arguments.go_on_from and not (arguments.go_on_from / "unet").is_dir():
        parser.error(f"--go-on-from {arguments.go_on_from}: no folder 'unet' in it")
    if not arguments.atlas.is_file():
        parser.error(f"--atlas {arguments.atlas}: no such file; write it with python -m sfumato.emoji.training.atlas")
    try:
        budgets = _budgets(arguments.stages)
    except ValueError as error:
        parser.error(str(error))
    on_gpu = arguments.device != "cpu"
    folder = arguments.folder or cache_folder() / "train-scenes"
    plan = Plan(
        Atlas(arguments.atlas).to(arguments.device),
        SIZES[arguments.size],
        folder,
        arguments.out or folder / "weights",
        arguments.start_from,
        arguments.go_on_from,
        arguments.attention_weight,
        arguments.pool or (60_000 if on_gpu else 8_000),
    )
    for stage, minutes in budgets.items():
        pace = (ON_GPU if on_gpu else ON_PROCESSOR)[stage]
        settings = Settings(
            minutes=minutes,
            batch=arguments.batch or pace.batch,
            learning_rate=arguments.learning_rate or pace.learning_rate,
            ema_decay=pace.ema_decay,
            folder=folder,
            device=arguments.device,
            seed=arguments.seed,
            save_minutes=arguments.save_minutes,
            workers=arguments.workers or (1 if on_gpu else min(4, os.cpu_count() or 1)),
        )
        world = plan.atlas.world
        console.print(f"{stage}: {len(world.concepts)} concepts, {len(world.styles)} styles, {settings}")
        try:
            run_stage(stage, plan, settings)
        except SfumatoError as error:
            raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
