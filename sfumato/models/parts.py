"""What a user adds to a model from files of its own: LoRAs, textual inversions, another autoencoder.

`read_parts` checks the files before anything is loaded, `Parts.apply` changes a loaded pipeline, and `Parts.recipe`
names each file with its scale and its SHA-256, so that a result tells what it was made with.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from sfumato import checks
from sfumato.errors import ModelError, UsageError
from sfumato.models.embeddings import add_embedding, check_embedding
from sfumato.models.files import CONVERT, refuse_pickle, size_of
from sfumato.models.lora import check_lora, lora_files
from sfumato.models.lora_merge import merge_lora
from sfumato.models.vae import check_vae, load_vae

PathLike: TypeAlias = "str | os.PathLike[str]"
Lora: TypeAlias = "PathLike | tuple[PathLike, float]"

MAX_SCALE: Final = 100.0
"""Of a LoRA, either sign; beyond it is a slip of the pen."""
MAX_SKIP: Final = 100
MAX_PARTS: Final = 100
"""LoRAs, or embeddings, at once."""
_SCALE: Final = re.compile(r"(.+):([-+]?[0-9.]+(?:[eE][-+]?\d+)?)", re.DOTALL)


@dataclass(frozen=True)
class File:
    """A file (or the folder of an autoencoder) that was added to a model.

    Attributes:
        path: As given, `~` expanded.
        sha256: Of its content (a folder: of its weights), hexadecimal.
        scale: Of a LoRA.
        token: The word of a textual inversion, to be written in prompts.
    """

    path: Path
    sha256: str
    scale: float = 1.0
    token: str = ""


@dataclass(frozen=True)
class Parts:
    """Checked files to add to a model."""

    loras: tuple[File, ...] = ()
    embeddings: tuple[File, ...] = ()
    vae: File | None = None
    clip_skip: int = 0

    def __bool__(self) -> bool:
        return bool(self.loras or self.embeddings or self.vae or self.clip_skip)

    def recipe(self) -> dict[str, Any]:
        """Entries "lora", "embeddings", "vae" and "clip_skip" of a recipe; those that are empty are left out."""
        loras = [{"path": str(file.path), "scale": file.scale, "sha256": file.sha256} for file in self.loras]
        words = [{"path": str(file.path), "token": file.token, "sha256": file.sha256} for file in self.embeddings]
        vae = None if self.vae is None else {"path": str(self.vae.path), "sha256": self.vae.sha256}
        entries = {"lora": loras, "embeddings": words, "vae": vae, "clip_skip": self.clip_skip}
        return {key: value for key, value in entries.items() if value}

    def revision(self) -> str:
        """What is put behind the revision of the model itself."""
        marks = [f"+vae:{self.vae.sha256[:16]}"] if self.vae is not None else []
        marks += [f"+embedding:{file.sha256[:16]}" for file in self.embeddings]
        marks += [f"+lora:{file.sha256[:16]}@{file.scale:g}" for file in self.loras]
        marks += [f"+clip-skip:{self.clip_skip}"] if self.clip_skip else []
        return "".join(marks)

    def apply(self, pipeline: Any, name: str) -> list[str]:
        """Changes a loaded pipeline; gives notes for the user.

        Raises:
            ModelError: A file was made for another family or size of model.
        """
        is_flow = getattr(pipeline, "transformer", None) is not None
        if is_flow and (self.embeddings or self.vae is not None or self.clip_skip):
            raise ModelError(
                f"{name} is a flow model, which takes LoRAs, but no embedding, other VAE or clip skip here; put them"
                " into a diffusers pipeline, and load that"
            )
        if self and not is_flow and getattr(pipeline, "text_encoder", None) is None:
            raise ModelError(
                f"{name} is an unconditional model: it takes no LoRA, no embedding, no other VAE and no clip skip"
            )
        notes = []
        if self.vae is not None:
            own, pipeline.vae = pipeline.vae, load_vae(self.vae.path, pipeline.vae)
            factors = own.config.scaling_factor, pipeline.vae.config.scaling_factor
            if type(own) is type(pipeline.vae) and factors[0] != factors[1]:
                notes.append(
                    f"the VAE {self.vae.path.name} has the scaling factor {factors[1]:g}, the model's own has"
                    f" {factors[0]:g}: it may be made for another family"
                )
        for file in self.embeddings:
            vectors = add_embedding(pipeline, file.path, file.token)
            count = f"{vectors} vector{'s' if vectors > 1 else ''}"
            notes.append(f"embedding {file.path.name}: write {file.token} in a prompt for its {count}")
        for file in self.loras:
            merge_lora(pipeline, file.path, file.scale)
        return notes


def read_parts(
    lora: Lora | Sequence[Lora] | None,
    embeddings: PathLike | Sequence[PathLike] | None,
    vae: PathLike | None,
    clip_skip: int = 0,
) -> Parts:
    """Checks files that are to be added to a model, before it is loaded.

    Args:
        lora: Safetensors files, each with its scale: (file, scale), "file:scale" or the file alone (scale 1).
        embeddings: Safetensors files of textual inversions.
        vae: A folder or a safetensors file of an autoencoder; of a model's folder, its `vae`.
        clip_skip: Last layers of the text encoders that are left out.

    Raises:
        UsageError: An argument is of another type, or a scale is none.
        ModelError: A file is missing, pickled, damaged, or something else (named).
    """
    loras = [_read_lora(entry) for entry in entries("lora", lora)]
    words = [_read_embedding(entry) for entry in entries("embeddings", embeddings)]
    tokens = [file.token for file in words]
    for token in tokens:
        if tokens.count(token) > 1:
            raise UsageError(f"two embeddings have the name {token!r}; rename one of the files")
    checked_vae = None
    if vae is not None:
        path = existing("VAE", vae, folder=True)
        path, files = check_vae(path)
        checked_vae = File(path, sha256(*files))
    return Parts(tuple(loras), tuple(words), checked_vae, checks.whole("clip_skip", clip_skip, low=0, high=MAX_SKIP))


def split_scale(text: str) -> tuple[str, float | None]:
    """Reads FILE[:SCALE]; the scale is None where there is none. A file whose name ends so is taken as it is."""
    found = _SCALE.fullmatch(text)
    try:
        if found is None or Path(text).expanduser().exists():
            return text, None
    except (OSError, RuntimeError):  # too long, or of an unknown user
        return text, None
    try:
        return found[1], float(found[2])
    except ValueError:
        raise UsageError(f"the scale of a LoRA is a number, such as style.safetensors:0.8, got {text!r}") from None


def existing(what: str, given: Any, *, folder: bool = False) -> Path:
    """The path of a file that is there, `~` expanded.

    Raises:
        UsageError: It is no path.
        ModelError: It is not there, or of a kind that is not opened.
    """
    name = os.fspath(checks.path(what, given))
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"there is no {what} {name[:100]!r} ({error})") from error
    refuse_pickle(path)
    if not there:
        raise ModelError(f"there is no {what} {path}; check the path (current folder: {Path.cwd()})")
    if is_folder and folder:
        return path
    size_of(path)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path} is no {what}: it is no .safetensors file; {CONVERT}")
    return path


def sha256(*files: Path) -> str:
    """SHA-256 of the content of files, one after the other, hexadecimal.

    Raises:
        ModelError: One cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
    return digest.hexdigest()


def content_hash(path: Path) -> str | None:
    """SHA-256 of a file that a recipe names, as `File.sha256`; None where nothing that could be it lies there."""
    try:
        if path.is_dir():
            return sha256(*check_vae(path)[1])
        is_file = path.is_file() and path.suffix.lower() == ".safetensors"
        return sha256(*lora_files(path)) if is_file else None
    except (ModelError, OSError, ValueError):
        return None


def entries(name: str, given: Any) -> list[Any]:
    """A single entry, or a list of them, as a list."""
    if given is None:
        return []
    is_pair = isinstance(given, tuple) and len(given) == 2 and not isinstance(given[1], str | os.PathLike)
    if isinstance(given, str | os.PathLike) or is_pair:
        return [given]
    if not isinstance(given, list | tuple) or len(given) > MAX_PARTS:
        raise checks.refuse(name, f"a file or a list of at most {MAX_PARTS} files", given)
    return list(given)


def _read_lora(entry: Any) -> File:
    if isinstance(entry, tuple) and len(entry) == 2:
        given, scale = entry
    else:
        given, scale = split_scale(entry) if isinstance(entry, str) else (entry, None)
    path = existing("LoRA file", given)
    scale = checks.number(f"the scale of LoRA {path}", 1.0 if scale is None else scale, low=-MAX_SCALE, high=MAX_SCALE)
    check_lora(path)
    return File(path, sha256(*lora_files(path)), scale=scale)


def _read_embedding(entry: Any) -> File:
    path = existing("embedding file", entry)
    return File(path, sha256(path), token=check_embedding(path))
