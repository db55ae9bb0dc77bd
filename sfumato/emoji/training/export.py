"""Writes the trained networks in Stable Diffusion's folder layout, and checks the shipped files.

Newer versions of transformers save a text encoder and a tokenizer in a way that older ones cannot read, but read the
old way as well. So these two are written the old way, whichever version is installed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sfumato.files import folder_written_whole


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder` but `checksums.json` and the model card, by its relative path."""
    return {
        str(path.relative_to(folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("checksums.json", "README.md")
    }


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json`."""
    (folder / "checksums.json").write_text(json.dumps(checksums(folder), indent=1) + "\n", encoding="utf-8")


def use_old_tensor_names(file: Path) -> None:
    """Renames the tensors of a CLIP text encoder's file to `text_model.*`, which every version reads."""
    with safe_open(file, framework="pt") as stored:
        tensors = {f"text_model.{name.removeprefix('text_model.')}": stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    save_file(tensors, file, metadata=metadata)


def export_pipeline(
    target: Path,
    *,
    tokenizer: Any,
    text_encoder: Any,
    unet: Any,
    autoencoder: Any,
    scheduler: Any,
    shard: str | None = None,
) -> None:
    """Writes the model as fp16 safetensors; a reader never sees half of it.

    Files of other stages in `target` (the model card, the judges' weights) are kept.

    Args:
        target: The folder to fill or replace.
        tokenizer: The model's parts, as in Stable Diffusion.
        text_encoder: See `tokenizer`.
        unet: See `tokenizer`.
        autoencoder: See `tokenizer`.
        scheduler: See `tokenizer`.
        shard: Largest size of a file of weights, such as "15MB"; None: one file for each network.
    """
    from diffusers import StableDiffusionPipeline

    from sfumato.emoji.training.vocabulary import save_tokenizer

    def half(model: Any) -> Any:
        return copy.deepcopy(model).to("cpu", torch.float16).requires_grad_(False)

    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(target) as fresh:
        pipeline = StableDiffusionPipeline(
            vae=half(autoencoder),
            text_encoder=half(text_encoder),
            tokenizer=tokenizer,
            unet=half(unet),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(fresh, safe_serialization=True, max_shard_size=shard)
        use_old_tensor_names(fresh / "text_encoder" / "model.safetensors")
        shutil.rmtree(fresh / "tokenizer")
        save_tokenizer(tokenizer, fresh / "tokenizer")
        for file in fresh.glob("*/config.json"):
            config = json.loads(file.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # a path of the machine that trained it
            if "dtype" in config:  # transformers would otherwise load its network in fp16 beside diffusers' fp32 ones
                config["dtype"] = "float32"
            file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for kept in target.iterdir() if target.is_dir() else []:
            if not (fresh / kept.name).exists():
                (shutil.copytree if kept.is_dir() else shutil.copy2)(kept, fresh / kept.name)
        for file in fresh.rglob("*"):
            if file.is_file():
                file.chmod(0o644)
        write_checksums(fresh)
