"""Reading a model's files: regular files only, never more than a bound, and named for what they are.

Weights are read from safetensors files only. The other formats are Python pickles, and opening one runs whatever
program its author put there.
"""

from __future__ import annotations

import json
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.json_input import read_json

PICKLED: Final = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")
CONVERT: Final = (
    "convert it to safetensors: at https://huggingface.co/spaces/safetensors/convert, or, if you trust its author, "
    "with safetensors.torch.save_file(torch.load(...)['state_dict'], 'model.safetensors')"
)

MAX_CONFIG: Final = 1 << 20
"""Bytes of a configuration; real ones have a few thousand."""
MAX_LIST: Final = 64 << 20
"""Bytes of a vocabulary, of a list of shards, or of a safetensors header; real ones have a few million."""

_FLOATS: Final = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Counters that old checkpoints hold beside the weights; the networks compute them anew.
_COUNTERS: Final = ("position_ids", "num_batches_tracked", "num_updates", ".alpha")
# fp8 values that mean something only after a factor, which is stored beside them
_SCALED: Final = ("scaled_fp8", "scale_weight", "weight_scale", "scale_input", "input_scale")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself.

    Attributes:
        path: The file.
        dtypes: Tensor name to dtype, such as "F32".
        shapes: Tensor name to shape.
        metadata: Free texts.
    """

    path: Path
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def check_floats(self) -> None:
        """Refuses weights that are no plain floats: integers, or the packed values of a quantised network.

        Raises:
            ModelError: Names the tensor and its dtype.
        """
        for name, dtype in self.dtypes.items():
            if name.endswith(_SCALED) and dtype.startswith("F"):
                raise ModelError(f"{self.path} holds quantised weights (factors in {name}); give the plain ones")
            if dtype not in _FLOATS and not name.endswith(_COUNTERS):
                raise ModelError(
                    f"{self.path} holds {name} as {dtype}, where weights are floats (F32, F16, BF16): it is quantised "
                    "or damaged; give the plain weights"
                )


def refuse_pickle(path: Path) -> None:
    """Raises a `ModelError` for a name that says pickle, whether or not the file exists."""
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"{path} is a pickle ({path.suffix}); opening one can run any program, so it is not loaded; {CONVERT}"
        )


def size_of(path: Path) -> int:
    """Gives the size in bytes of a regular file.

    Raises:
        ModelError: It is not there, cannot be looked at, or is something else (a folder, a pipe, a device).
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{path} is no regular file; give the model's own files")
    return found.st_size


def read_bytes(path: Path, limit: int = MAX_CONFIG) -> bytes:
    """Reads a regular file of at most `limit` bytes.

    Raises:
        ModelError: As `size_of`, or the file is longer.
    """
    size = size_of(path)
    if size > limit:
        raise ModelError(f"{path} has {size} bytes, where at most {limit} are expected; get the model again")
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """Parses what `path` holds, which must be a JSON object.

    Raises:
        ModelError: It is no JSON, nested too deep, or no object.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        said = sniff(content) or f"damaged ({error})"
        raise ModelError(f"{path} is {said}; download or save the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is damaged (no JSON object); download or save the model again")
    return value


def read_header(path: Path) -> Header:
    """Reads the header of a safetensors file, and none of its tensors.

    Raises:
        ModelError: The file is a pickle, a web page, a pointer to a file, something else that is no safetensors file,
            or cut off.
    """
    refuse_pickle(path)
    size = size_of(path)
    broken = f"{path} is not a whole safetensors file; download or save it again"
    try:
        with path.open("rb") as file:
            start = file.read(512)
            (length,) = struct.unpack("<Q", start[:8])
            if length > min(size, MAX_LIST) or start[8:9] != b"{":
                said = sniff(start)
                raise ModelError(f"{path} is {said}" if said else broken)
            file.seek(8)
            header = read_json(file.read(length), max_bytes=MAX_LIST)
        metadata = header.pop("__metadata__", None) or {}
        dtypes = {name: str(entry["dtype"]) for name, entry in header.items()}
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in header.items()}
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        metadata = {str(key): str(value) for key, value in metadata.items()}
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (struct.error, ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise ModelError(broken) from error
    if size != 8 + length + end:
        raise ModelError(f"{broken} (it has {size} bytes, its header promises {8 + length + end})")
    return Header(path, dtypes, shapes, metadata)


def sniff(start: bytes) -> str | None:
    """Says what a file is that begins with these bytes, with a remedy, where it is no safetensors file and no JSON."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or download the file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return (
            "a web page (HTML), not the file itself: the address led to a page; use the page's download link, log in "
            "or accept the terms if it asks for that, and download again"
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return f"a pickle under another name; opening one can run any program, so it is not loaded; {CONVERT}"
    if start.startswith(b"GGUF"):
        return "a GGUF file (quantised weights), which is not loaded; give the plain weights as .safetensors"
    if text.startswith((b'{"error', b'{"message', b'{"detail')):
        return "an error message of a server, not the file itself: see its text, and download again"
    return None
