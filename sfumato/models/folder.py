"""What lies in a diffusers folder: is it complete, is it safe, which model is it; found without loading it.

diffusers and transformers look into a folder for more than weights: for Python files, for files that a configuration
names, for lists that lead to further files. They are never shown the folder itself. What is checked here is laid out in
an empty folder of its own, and loaded from there: configurations as they were read, and links to the weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.models import architecture
from sfumato.models.files import CONVERT, MAX_LIST, PICKLED, Header, parse_json, read_bytes, read_header
from sfumato.models.layout import (
    INDEX,
    T5_TOKENIZER,
    TOKENIZERS,
    VOCABULARY,
    base_of,
    choose_variant,
    classes_of,
    components,
    config_of,
    has_weights,
    part_of,
    shard_lists,
)
from sfumato.models.vocabulary import check_pieces, check_vocabulary
from sfumato.models.weights import fingerprint

# What a pipeline's index says besides its parts, and is used.
_FLAGS: Final = ("force_zeros_for_empty_prompt",)


@dataclass
class Part:
    """The checked files of one part of a model.

    Attributes:
        configs: Name to content, of configurations and vocabularies.
        weights: Name under which the libraries look for it, to the file's header.
    """

    configs: dict[str, bytes] = field(default_factory=dict)
    weights: dict[str, Header] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        return [header.path for header in self.weights.values()]

    def lay_out(self, folder: Path) -> None:
        """Writes the configurations into an empty folder, and links the weights there."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.configs.items():
            (folder / name).write_bytes(content)
        for name, header in self.weights.items():
            _link(header.path.resolve(), folder / name)


@dataclass
class Checked:
    """A model folder whose files were checked.

    Attributes:
        folder: Where it lies.
        index: Its `model_index.json`, as it was read.
        parts: The parts that are used.
    """

    folder: Path
    index: bytes
    parts: dict[str, Part]

    @property
    def weights(self) -> list[Path]:
        """The safetensors files that are read, sorted."""
        return sorted(file for part in self.parts.values() for file in part.files)

    @property
    def headers(self) -> list[Header]:
        return [header for part in self.parts.values() for header in part.weights.values()]

    @property
    def small_files(self) -> dict[str, bytes]:
        """Name below the folder to content, of index, configurations and vocabularies."""
        small = {INDEX: self.index}
        for name, part in self.parts.items():
            below = part_of(self.folder, name).relative_to(self.folder)
            small |= {(below / file).as_posix(): content for file, content in sorted(part.configs.items())}
        return small

    @property
    def fingerprint(self) -> str:
        """Names the content, wherever the folder lies: of all that is loaded from it, and nothing else."""
        return fingerprint(self.folder, self.small_files, self.weights)

    @contextlib.contextmanager
    def laid_out(self, family: str) -> Iterator[Path]:
        """Yields a folder that holds what was checked and nothing else, as a pipeline of class `family`."""
        with laid_out(self.parts) as folder:
            index = parse_index(self.folder, self.index)
            kept = {name: index[name] for name in (*self.parts, *_FLAGS) if name in index}
            (folder / INDEX).write_text(json.dumps(kept | {"_class_name": family}), encoding="utf-8")
            yield folder


@contextlib.contextmanager
def laid_out(parts: Mapping[str, Part]) -> Iterator[Path]:
    """Yields a temporary folder with each part's checked files in a folder of its name ("" for the folder itself)."""
    with tempfile.TemporaryDirectory(prefix="sfumato-", ignore_cleanup_errors=True) as name:
        for part, content in parts.items():
            content.lay_out(Path(name) / part)
        yield Path(name)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads `model_index.json` of a diffusers folder.

    Raises:
        ModelError: There is none, it is damaged, or it asks for code from outside diffusers and transformers.
    """
    return parse_index(folder, _index_of(folder))


def parse_index(folder: Path, content: bytes) -> dict[str, Any]:
    """What `read_index` gives, of the content of the file."""
    index = parse_json(folder / INDEX, content)
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(f"{folder / INDEX} names no diffusers pipeline class; custom pipelines are not loaded")
    for name in _FLAGS:
        if not isinstance(index.get(name, False), bool):
            raise ModelError(f"{folder / INDEX}: {name} must be true or false, got {index[name]!r:.100}")
    for component, (library, _) in components(index).items():
        if library not in ("diffusers", "transformers"):
            raise ModelError(f"{folder} asks for its own code ({component} from {library}), which is not run")
    return index


def check_folder(
    folder: Path, variant: str | None = None, *, family: str = "", weights_of: Collection[str] | None = None
) -> Checked:
    """Finds the files of a diffusers folder that are loaded, and checks that they are safe and that none is missing.

    Args:
        folder: Holds `model_index.json` and a folder for each part.
        variant: Part of the file names, such as "fp16"; parts without it are taken in their plain form. None takes the
            plain form, or the only variant where there is no plain one.
        family: Pipeline class whose adapter serves it; "": the one that the folder names.
        weights_of: Parts whose weights are wanted; of the others, configurations and vocabularies alone. None: all.

    Raises:
        ModelError: Names what is missing, pickled, damaged, a program, or only there in another variant.
    """
    content = _index_of(folder)
    refuse_code(folder)
    index = parse_index(folder, content)
    family = family or str(index["_class_name"])
    checked = Checked(folder, content, {})
    found_variant = variant is None or weights_of is not None
    for component, (library, class_name) in components(index).items():
        classes = classes_of(family, component)
        if component != "scheduler" and class_name not in classes:
            known = ", ".join(classes) or "none"
            raise ModelError(f"{folder} has a {class_name} as {component}, which is not supported (known: {known})")
        where = part_of(folder, component)
        refuse_code(where)
        part = checked.parts[component] = Part(_configs(folder, component, class_name))
        if not has_weights(component) or (weights_of is not None and component not in weights_of):
            continue
        base = base_of(library)
        chosen = choose_variant(_names(where), base, variant, owner=str(folder), component=component)
        found_variant = found_variant or chosen == variant
        add_weights(part, where, base, chosen)
    if not found_variant:
        raise ModelError(f"{folder} has no weights of variant {variant!r}; leave variant out, or get that variant")
    return checked


def check_part(folder: Path, base: str = "model") -> Part:
    """Checks a folder that holds one network by itself: configuration, weights, and a vocabulary if it has one.

    Raises:
        ModelError: As `check_folder`.
    """
    refuse_code(folder)
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json; give the folder that holds it and {base}.safetensors")
    names = ("config.json", "tokenizer_config.json", *VOCABULARY)
    part = Part({name: read_bytes(folder / name, MAX_LIST) for name in names if (folder / name).exists()})
    for name in ("config.json", "tokenizer_config.json"):
        if name in part.configs:
            architecture.check_config(folder / name, part.configs[name])
    add_weights(
        part, folder, base, choose_variant(_names(folder), base, None, owner=str(folder), component="the network")
    )
    return part


def refuse_code(folder: Path) -> None:
    """Raises a `ModelError` for a folder with Python files, which the libraries would look into for classes."""
    programs = sorted(path.name for path in _entries(folder) if path.suffix.lower() in (".py", ".pyc"))
    if programs:
        raise ModelError(
            f"{folder} holds Python code ({programs[0]}), and no code that comes with a model is run; remove that file "
            "if the model is sound without it"
        )


def add_weights(part: Part, where: Path, base: str, variant: str | None) -> None:
    """Adds the weight files of one variant, whole or in shards, to a part, under their plain names.

    Raises:
        ModelError: One is missing, damaged or no plain safetensors file, or the list of shards names another file.
    """
    mark = f".{variant}" if variant else ""
    whole = where / f"{base}{mark}.safetensors"
    index = next((where / name for name in shard_lists(base, variant) if (where / name).exists()), None)
    if index is None:
        part.weights[f"{base}.safetensors"] = read_header(whole)
    elif whole.exists():
        raise ModelError(f"{where} holds {whole.name} and {index.name}, which name other files; remove one of the two")
    else:
        content = read_bytes(index, MAX_LIST)
        for name in _shards(index, content):
            part.weights[name] = read_header(where / name)
        part.configs[f"{base}.safetensors.index.json"] = content
    headers = list(part.weights.values())
    for header in headers:
        header.check_floats()
    architecture.check_sizes(where / "config.json", part.configs["config.json"], headers)


def _index_of(folder: Path) -> bytes:
    if not (folder / INDEX).exists():
        raise ModelError(_no_index(folder))
    return read_bytes(folder / INDEX)


def _configs(folder: Path, component: str, class_name: str) -> dict[str, bytes]:
    where = part_of(folder, component)
    config = config_of(component)
    if not (where / config).exists():
        what = f"{component}/{config}" if where.is_dir() else f"{component}/"
        raise ModelError(f"{folder} is incomplete: {what} is missing; get the model again")
    found = {config: read_bytes(where / config)}
    architecture.check_config(where / config, found[config])
    if component in TOKENIZERS:
        found |= {name: read_bytes(where / name, MAX_LIST) for name in VOCABULARY if (where / name).exists()}
        (check_pieces if class_name in T5_TOKENIZER else check_vocabulary)(where, found)
    return found


def _shards(index: Path, content: bytes) -> list[str]:
    weight_map = parse_json(index, content).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} is damaged (no weight_map); download or save the model again")
    names: set[str] = set()
    for name in weight_map.values():
        plain = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name and "\\" not in name
        if not plain:
            raise ModelError(
                f"{index} names {name!r}, where only safetensors files of its own folder are read; get the model again"
            )
        names.add(name)
    missing = sorted(name for name in names if not (index.parent / name).exists())
    if missing:
        raise ModelError(f"{index.parent} is incomplete: {', '.join(missing)} missing; get the model again")
    return sorted(names)


def _no_index(folder: Path) -> str:
    names = sorted(file.name for file in _entries(folder) if file.is_file())
    single = [name for name in names if name.endswith(".safetensors")]
    if (folder / "config.json").is_file():
        return f"{folder} is one part of a model (no {INDEX}); give the folder above it"
    if single:
        return (
            f"{folder} has no {INDEX}, so it is no diffusers folder; to load a single file, give {folder / single[0]}"
        )
    pickled = [name for name in names if Path(name).suffix.lower() in PICKLED]
    if pickled:
        return f"{folder} has no {INDEX} and only pickled weights ({pickled[0]}), which are not loaded; {CONVERT}"
    return f"{folder} has no {INDEX}, so it is no diffusers folder; give the folder that holds that file"


def _names(folder: Path) -> list[str]:
    return [path.name for path in _entries(folder)]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise ModelError(f"cannot read {folder}: {error.strerror or error}") from error


def _link(file: Path, place: Path) -> None:
    for way in (os.symlink, os.link, shutil.copyfile):
        with contextlib.suppress(OSError):
            way(file, place)
            return
    raise ModelError(f"cannot make {file} ready for loading in {place.parent}; is that disk full?")
