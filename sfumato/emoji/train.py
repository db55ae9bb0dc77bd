"""Trains the embedded model: `python -m sfumato.emoji.train STAGE --minutes N`.

Stages, in order: `autoencoder`, `diffusion` (text encoder and UNet), `classifier` (judges the figures)
and `clip` (the text-image dual encoder). Each may be stopped and started again: it goes on from its last checkpoint.
The same command runs on processors and GPUs. On a processor, glibc returns the big buffers of every step to the system
unless set otherwise: `MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=34359738368` in the environment helps.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from sfumato.emoji import WEIGHTS
from sfumato.emoji.training.data import DataError, cache_folder
from sfumato.emoji.training.loop import Settings, console
from sfumato.emoji.world import Concept, load_concepts

STAGES = ("autoencoder", "diffusion", "classifier", "clip")
DEFAULTS: dict[str, dict[str, Any]] = {
    "autoencoder": {"batch": 32, "learning_rate": 1.5e-3, "ema_decay": 0.998},
    "diffusion": {"batch": 32, "learning_rate": 8e-4, "ema_decay": 0.998},
    "classifier": {"batch": 64, "learning_rate": 2e-3, "ema_decay": 0.995},
    "clip": {"batch": 128, "learning_rate": 1e-3, "ema_decay": 0.995},
}


def run_stage(
    stage: str, concepts: list[Concept], size: int, settings: Settings, out: Path, start_from: Path | None = None
) -> None:
    """Runs one stage and writes its weights.

    Args:
        stage: One of `STAGES`.
        concepts: The world's concepts.
        size: Side of the images in pixels, 64 or 128.
        settings: See `sfumato.emoji.training.loop.Settings`.
        out: Folder of the weights to write.
        start_from: Folder of a model whose autoencoder the first stage trains further; None for new weights.

    Raises:
        SystemExit: An earlier stage has not been run.
    """
    if stage == "autoencoder":
        from sfumato.emoji.autoencoder import train_autoencoder

        autoencoder = train_autoencoder(concepts, size, settings, start_from=start_from)
        autoencoder.save_pretrained(settings.folder / "autoencoder")
    elif stage == "diffusion":
        from sfumato.emoji.diffusion import train_diffusion
        from sfumato.emoji.tokenizer import build_tokenizer
        from sfumato.emoji.training.export import export_pipeline
        from sfumato.emoji.training.networks import build_scheduler

        if not (settings.folder / "autoencoder").is_dir():
            raise SystemExit(f"error: no finished autoencoder in {settings.folder}: run that stage first")
        autoencoder = AutoencoderKL.from_pretrained(settings.folder / "autoencoder")
        tokenizer = build_tokenizer(concepts, settings.folder / "tokenizer")
        model = train_diffusion(concepts, size, autoencoder, tokenizer, settings, export_to=out)
        export_pipeline(
            out,
            tokenizer=tokenizer,
            text_encoder=model.text_encoder,
            unet=model.unet,
            autoencoder=autoencoder,
            scheduler=build_scheduler("epsilon"),
        )
    elif stage == "classifier":
        from sfumato.emoji.judges import train_classifier

        train_classifier(concepts, size, settings, out)
    else:
        from sfumato.emoji.dual_encoder import train_dual_encoder

        if not (out / "tokenizer").is_dir():
            raise SystemExit(f"error: no tokenizer in {out}: run the diffusion stage first, which writes it")
        train_dual_encoder(concepts, size, settings, out)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sfumato.emoji.train", description="Train the embedded model.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=30, help="training time of this stage, resumed time included")
    parser.add_argument("--size", type=int, choices=(64, 128), default=64, help="side of the images in pixels")
    parser.add_argument(
        "--concepts", help="list from `python -m sfumato.emoji.training.data --write-concepts`; default: shipped"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--workers", type=int, help="threads that share a step; default: the cores, at most 4; 1 on GPUs"
    )
    parser.add_argument("--folder", type=Path, help="checkpoints, logs, sheets; default: in the cache")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go; default: the package's own")
    parser.add_argument("--start-from", type=Path, help="a model whose autoencoder is trained further (first stage)")
    parser.add_argument("--restart", action="store_true", help="forget the checkpoint of this stage")
    arguments = parser.parse_args()
    if arguments.start_from and arguments.stage != "autoencoder":
        parser.error(f"--start-from is for the stage autoencoder, got it for {arguments.stage}")
    if arguments.start_from and not (arguments.start_from / "vae").is_dir():
        parser.error(f"--start-from {arguments.start_from}: no folder 'vae' in it")
    folder = arguments.folder or cache_folder() / f"train-{arguments.size}"
    if arguments.restart:
        (folder / f"{arguments.stage}.pt").unlink(missing_ok=True)
    chosen = DEFAULTS[arguments.stage]
    settings = Settings(
        minutes=arguments.minutes,
        batch=arguments.batch or chosen["batch"],
        learning_rate=arguments.learning_rate or chosen["learning_rate"],
        ema_decay=chosen["ema_decay"],
        folder=folder,
        device=arguments.device,
        seed=arguments.seed,
        workers=arguments.workers or (1 if arguments.device != "cpu" else min(4, os.cpu_count() or 1)),
    )
    concepts = load_concepts(arguments.concepts)
    console.print(f"{arguments.stage}: {len(concepts)} concepts, {arguments.size} px, {settings}")
    try:
        run_stage(arguments.stage, concepts, arguments.size, settings, arguments.out, arguments.start_from)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.concepts and arguments.out != WEIGHTS:
        arguments.out.mkdir(parents=True, exist_ok=True)
        shutil.copy2(arguments.concepts, arguments.out / "concepts.json")


if __name__ == "__main__":
    _main()
