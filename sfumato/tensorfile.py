"""Tensors and plain fields in one `.safetensors` file: written whole or not at all, and refused when damaged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checks import shown
from sfumato.errors import SfumatoError
from sfumato.files import at_home, write_whole
from sfumato.json_input import JsonError, read_json

MAX_BYTES = 2**30
MAX_TENSORS = 1_000


@dataclass(frozen=True)
class Kind:
    """What a file holds: for its format mark, and for messages.

    Attributes:
        name: "inversion"; the format mark is `sfumato-inversion-1`.
        make: How a missing one is made.
        again: How a damaged one is made good.
        error: What is raised.
    """

    name: str
    make: str
    again: str
    error: type[SfumatoError]

    @property
    def format(self) -> str:
        return f"sfumato-{self.name}-1"


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], fields: Mapping[str, Any], kind: Kind
) -> Path:
    """Writes one file, whole or not at all.

    Args:
        path: Must end in `.safetensors`.
        tensors: By name, any shape and dtype.
        fields: What JSON can say.
        kind: What it is.

    Raises:
        SfumatoError: Of the kind's own type: the folder does not exist or cannot be written, or the name ends
            otherwise.
    """
    from safetensors.torch import save

    target = at_home(path)
    if target.suffix != ".safetensors":
        raise kind.error(f"the file of the {kind.name} must end in .safetensors, got {target.name!r}")
    if not target.parent.is_dir():
        raise kind.error(f"folder {target.parent} does not exist: create it first")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(fields))
    metadata = {"format": kind.format, "fields": text, "content": content_hash(stored, text)}
    write_whole(target, save(stored, metadata), kind.error)
    return target


def load_tensors(path: str | os.PathLike[str], kind: Kind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: tensors and fields.

    Raises:
        SfumatoError: Of the kind's own type: the file is missing, damaged, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    path = at_home(path)
    if not _is_file(path):
        raise kind.error(f"no {kind.name} at {shown(str(path))}: {kind.make}")
    if Path(path).stat().st_size > MAX_BYTES:
        raise kind.error(f"{path} has more than {MAX_BYTES // 10**6} MB, which no {kind.name} has: {kind.again}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind.format:
                raise kind.error(f"{path} is no sfumato {kind.name} (format {shown(metadata.get('format'))})")
            if len(file.keys()) > MAX_TENSORS:
                raise kind.error(f"{path} holds {len(file.keys())} tensors, which no {kind.name} does: {kind.again}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise kind.error(f"{path} is damaged or no .safetensors file ({error}): {kind.again}") from error
    text = metadata.get("fields", "")
    if content_hash(tensors, text) != metadata.get("content"):
        raise kind.error(f"{path} is damaged: its content does not match its hash; {kind.again}")
    try:
        fields = read_json(text)
    except JsonError as error:
        raise kind.error(f"the fields of {path} are damaged ({error}): {kind.again}") from error
    if not isinstance(fields, dict):
        raise kind.error(f"the fields of {path} are damaged (no object with names): {kind.again}")
    return tensors, fields


def is_kind(path: str | os.PathLike[str], kind: Kind) -> bool:
    """Whether a file says that it is of this kind; its tensors are not read. False for whatever cannot be read."""
    from safetensors import SafetensorError, safe_open

    if not _is_file(path):
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("format") == kind.format
    except (SafetensorError, OSError, UnicodeDecodeError):
        return False


def content_hash(tensors: Mapping[str, Tensor], fields: str) -> str:
    """SHA-256 of names, shapes, types and values of tensors, and of the text beside them."""
    digest = hashlib.sha256(fields.encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def content_key(image: bytes, model: str, options: Mapping[str, Any]) -> str:
    """Hash that two inversions share exactly when image, model and options agree; 16 hexadecimal digits."""
    digest = hashlib.sha256(image)
    digest.update(model.encode())
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _is_file(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False
