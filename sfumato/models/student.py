"""A network distilled for few steps in the place of a model's own; text encoder and autoencoder stay the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.errors import ModelError
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.files import parse_json
from sfumato.models.folder import check_part, laid_out
from sfumato.models.scheduling import build_scheduler
from sfumato.models.silence import quiet
from sfumato.models.weights import fingerprint

NETWORK = "unet"
SCHEDULER = Path("scheduler") / "scheduler_config.json"


def put_student(pipeline: Any, folder: Path) -> str:
    """Puts the student of a folder (`unet`, `scheduler`) into a loaded pipeline; gives the fingerprint of its files.

    Raises:
        ModelError: The student is not there, damaged, or made for another model.
    """
    if not (folder / SCHEDULER).is_file():
        raise ModelError(f"{folder} holds no student: a network in {NETWORK} and the scheduler that it was made for")
    part, told = check_part(folder / NETWORK, "diffusion_pytorch_model"), (folder / SCHEDULER).read_bytes()
    config = parse_json(folder / SCHEDULER, told)
    try:
        DiscreteVP.from_config(config)
    except ModelError as error:
        raise ModelError(f"{folder / SCHEDULER}: {error}") from error
    own = pipeline.unet
    with quiet(), laid_out({"": part}) as place:
        student = type(own).from_pretrained(place, use_safetensors=True, local_files_only=True, torch_dtype=own.dtype)
    for name in ("in_channels", "sample_size", "cross_attention_dim"):
        theirs, ours = student.config[name], own.config[name]
        if theirs != ours:
            raise ModelError(f"the student in {folder} was made for another model ({name} {theirs}, not {ours})")
    pipeline.unet, pipeline.scheduler = student, build_scheduler(config)
    return fingerprint(folder, {SCHEDULER.as_posix(): told, **part.configs}, part.files).partition(":")[2]
