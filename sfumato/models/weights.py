"""What lies in a model's files, told without loading them: are they complete, are they safe, which ones are they.

Weights are read from safetensors files only. The other formats are Python pickles, and opening one runs whatever
program its author put there.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError

PICKLED: Final = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")
INDEX: Final = "model_index.json"

# Parts of a pipeline that no method uses: never downloaded, never loaded.
UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")

_WITHOUT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Scheduler", "Processor", "Extractor")
_CONVERT = (
    "convert it to safetensors: at https://huggingface.co/spaces/safetensors/convert, or, if you trust its author, "
    "with safetensors.torch.save_file(torch.load(...)['state_dict'], 'model.safetensors')"
)
_MAX_HEADER = 100_000_000
_SAMPLES, _SAMPLE_BYTES = 16, 4096


def refuse_pickle(path: Path) -> None:
    """Raises a `ModelError` for a name that says pickle, whether or not the file exists."""
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"{path} is a pickle ({path.suffix}); opening one can run any program, so it is not loaded; {_CONVERT}"
        )


def read_header(path: Path) -> dict[str, Any]:
    """Reads the header of a safetensors file: tensor name to dtype, shape and place.

    Raises:
        ModelError: The file is a pickle, is no safetensors file, or is cut off.
    """
    refuse_pickle(path)
    broken = f"{path} is not a whole safetensors file; download or save it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER):
                raise ModelError(broken)
            header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (struct.error, ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise ModelError(broken) from error
    if size != 8 + length + end:
        raise ModelError(f"{broken} (it has {size} bytes, its header promises {8 + length + end})")
    return tensors


def read_index(folder: Path) -> dict[str, Any]:
    """Reads `model_index.json` of a diffusers folder.

    Raises:
        ModelError: There is none, it is damaged, or it asks for code from outside diffusers and transformers.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(_no_index(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / INDEX} is damaged ({error}); download or save the model again") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ModelError(f"{folder / INDEX} names no diffusers pipeline class; custom pipelines are not loaded")
    for component, (library, _) in components(index).items():
        if library not in ("diffusers", "transformers"):
            raise ModelError(f"{folder} asks for its own code ({component} from {library}), which is not run")
    return index


def components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Gives name to (library, class) of the parts that are used."""
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
        if name not in UNUSED
    }


def check_folder(folder: Path, variant: str | None = None) -> list[Path]:
    """Finds the weight files of a diffusers folder, and checks that nothing is missing.

    Args:
        folder: Holds `model_index.json` and a folder for each part.
        variant: Part of the file names, such as "fp16"; parts without it are taken in their plain form.

    Returns:
        The safetensors files that will be read, sorted.

    Raises:
        ModelError: Names what is missing, pickled, damaged or only there in another variant.
    """
    files: list[Path] = []
    found_variant = variant is None
    for component, (_, class_name) in components(read_index(folder)).items():
        part = part_of(folder, component)
        if not any(part.glob("*.json")):
            raise ModelError(f"{folder} is incomplete: {component}/ is missing or has no configuration; get it again")
        if class_name.endswith(_WITHOUT_WEIGHTS):
            continue
        by_variant: dict[str | None, list[Path]] = {}
        for file in sorted(part.glob("*.safetensors")):
            by_variant.setdefault(_variant_of(file), []).append(file)
        chosen = by_variant.get(variant) or by_variant.get(None)
        if not chosen:
            raise ModelError(_no_weights(folder, component, [name for name in by_variant if name]))
        found_variant = found_variant or variant in by_variant
        _check_shards(part, chosen)
        for file in chosen:
            read_header(file)
        files += chosen
    if not found_variant:
        raise ModelError(f"{folder} has no weights of variant {variant!r}; leave variant out, or get that variant")
    return sorted(files)


def part_of(folder: Path, component: str) -> Path:
    """Where the files of a component lie: in its own folder, or beside the index (the first unconditional models)."""
    own = folder / component
    beside = "scheduler_config.json" if component == "scheduler" else "config.json"
    flat = not own.is_dir() and component in ("unet", "scheduler") and (folder / beside).is_file()
    return folder if flat else own


def _variant_of(file: Path) -> str | None:
    """model.fp16.safetensors and model.fp16-00001-of-00002.safetensors are of variant fp16."""
    _, _, name = file.stem.partition(".")
    return name.split("-0")[0] or None


def _check_shards(part: Path, chosen: list[Path]) -> None:
    for index in part.glob("*.safetensors.index*.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is damaged; download or save the model again") from error
        there = {file.name for file in chosen}
        if names & there and not names <= there:
            raise ModelError(f"{part} is incomplete: {', '.join(sorted(names - there))} missing; get the model again")


def _no_weights(folder: Path, component: str, variants: list[str]) -> str:
    if variants:
        return f"{folder} has {component} only as variant {', '.join(variants)}: pass variant={variants[0]!r}"
    pickled = [file.name for file in sorted(part_of(folder, component).iterdir()) if file.suffix.lower() in PICKLED]
    if pickled:
        return (
            f"{folder} has {component} only as a pickle ({pickled[0]}), which can run any program when opened, so it "
            f"is not loaded; {_CONVERT}"
        )
    return f"{folder} has no weights for {component}: expected {component}/*.safetensors; download or save it again"


def _no_index(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    single = [name for name in names if name.endswith(".safetensors")]
    if (folder / "config.json").is_file():
        return f"{folder} is one part of a model (no {INDEX}); give the folder above it"
    if single:
        return (
            f"{folder} has no {INDEX}, so it is no diffusers folder; to load a single file, give {folder / single[0]}"
        )
    pickled = [name for name in names if Path(name).suffix.lower() in PICKLED]
    if pickled:
        return f"{folder} has no {INDEX} and only pickled weights ({pickled[0]}), which are not loaded; {_CONVERT}"
    return f"{folder} has no {INDEX}, so it is no diffusers folder; give the folder that holds that file"


def folder_fingerprint(folder: Path, weights: Iterable[Path]) -> str:
    """Names the content of a diffusers folder, wherever it lies: of its configurations and `weights`."""
    parts = [part_of(folder, name) for name in components(read_index(folder))]
    configs = [folder / INDEX, *(file for part in parts for file in sorted(part.glob("*.json")))]
    return fingerprint(folder, configs, weights)


def fingerprint(root: Path, small: Iterable[Path], weights: Iterable[Path]) -> str:
    """Hashes names below `root`, the whole of `small` files, and of `weights` size, header and a sample of the data.

    The sample (16 blocks, evenly spread) tells apart two trainings of one architecture without reading gigabytes.
    """
    digest = hashlib.sha256()
    for file in small:
        _add(digest, file.relative_to(root).as_posix().encode(), file.read_bytes())
    for file in weights:
        size = file.stat().st_size
        _add(digest, file.relative_to(root).as_posix().encode(), str(size).encode())
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            _add(digest, stream.read(length))
            start, room = 8 + length, max(0, size - 8 - length - _SAMPLE_BYTES)
            for index in range(_SAMPLES):
                stream.seek(start + room * index // (_SAMPLES - 1))
                _add(digest, stream.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()[:16]}"


def _add(digest: Any, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
