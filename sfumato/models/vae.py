"""Another autoencoder for a model: a diffusers folder, or a single file in either naming."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sfumato.errors import ModelError
from sfumato.models.files import parse_json, read_header
from sfumato.models.folder import check_part, laid_out
from sfumato.models.identify import refuse_foreign
from sfumato.models.layout import CLASSES, INDEX
from sfumato.models.silence import quiet

_BASE = "diffusion_pytorch_model"


def check_vae(path: Path) -> tuple[Path, list[Path]]:
    """Where an autoencoder lies, and the weight files it has: `path` itself, or `vae` in the folder of a model.

    Raises:
        ModelError: It is something else, damaged or pickled.
    """
    if path.is_dir():
        folder = path / "vae" if (path / INDEX).exists() and (path / "vae").is_dir() else path
        part = check_part(folder, _BASE)
        kind = parse_json(folder / "config.json", part.configs["config.json"]).get("_class_name")
        if kind not in CLASSES["vae"]:
            raise ModelError(f"{folder} holds a {kind}, not an autoencoder (known: {', '.join(CLASSES['vae'])})")
        return folder, part.files
    header = read_header(path)
    header.check_floats()
    if any(key.startswith("model.diffusion_model.") for key in header.shapes):
        raise ModelError(f"{path} is a whole model, not a VAE; give it as the model, or give a VAE alone")
    sides = {key.removeprefix("first_stage_model.").partition(".")[0] for key in header.shapes}
    if not {"encoder", "decoder"} <= sides or not any(key.endswith("conv_in.weight") for key in header.shapes):
        try:
            refuse_foreign(header)
        except ModelError as error:
            raise ModelError(f"no VAE that can be used: {error}") from None
    return path, [path]


def load_vae(path: Path, own: Any) -> Any:
    """Loads an autoencoder in place of a model's own one.

    Args:
        path: From `check_vae`.
        own: The model's autoencoder; a single file takes its configuration, scaling factor included.

    Raises:
        ModelError: It does not fit the model.
    """
    misfit = f"the VAE {path} does not fit this model; it was made for another family"
    try:
        with quiet() as messages:
            import diffusers

            if path.is_dir():
                part = check_part(path, _BASE)
                kind = parse_json(path / "config.json", part.configs["config.json"])["_class_name"]
                with laid_out({"": part}) as folder:
                    vae = getattr(diffusers, kind).from_pretrained(folder, use_safetensors=True, local_files_only=True)
            else:
                with tempfile.TemporaryDirectory(prefix="sfumato-") as folder:
                    config = {"_class_name": "AutoencoderKL", **_plain(own.config)}
                    (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
                    vae = diffusers.AutoencoderKL.from_single_file(str(path), config=folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{misfit} ({first[:300]})") from error
    missing = any(value.is_meta for value in vae.parameters())
    if missing or any("newly initialized" in message for message in messages):
        raise ModelError(f"{path} is incomplete, some weights are missing; download it again")
    if int(vae.config.latent_channels) != int(own.config.latent_channels):
        raise ModelError(
            f"{misfit}: it gives {vae.config.latent_channels} channels, the model takes {own.config.latent_channels}"
        )
    return vae


def _plain(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}
