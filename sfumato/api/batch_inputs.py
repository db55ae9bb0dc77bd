"""What a batch is given: a manifest, or images by folder, glob pattern or name."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.api.manifest import MANIFESTS, STDIN, Line, is_manifest, read_manifest
from sfumato.errors import UsageError
from sfumato.files import at_home

IMAGES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".ppm", ".pgm",
    ".tga", ".ico", ".jp2",
)  # fmt: skip
"""Endings that make a file of a folder an image."""


@dataclass(frozen=True)
class Inputs:
    """Rows, and where they come from.

    Attributes:
        lines: The rows.
        folder: That paths in them start from.
        manifest: Whether they were written by hand; else they are of images that the user named.
    """

    lines: Sequence[Line]
    folder: Path
    manifest: bool


def read_inputs(inputs: Sequence[str], out: Path, *, recursive: bool = False) -> Inputs:
    """Reads a manifest, or finds all images that are named.

    Args:
        inputs: One manifest (`-`: JSON lines from the standard input); or folders, glob patterns and images.
        out: Folder of the results.
        recursive: Look into folders inside folders.

    Raises:
        UsageError: There is none, one is neither image nor manifest, or `out` lies in a folder of images. A pattern
            finds no results of an earlier run.
    """
    if len(inputs) == 1 and is_manifest(Path(inputs[0])) and not Path(inputs[0]).is_dir():
        path = Path(inputs[0]) if inputs[0] == STDIN else at_home(inputs[0])
        return Inputs(read_manifest(path), path.parent, manifest=True)
    images: dict[str, None] = {}
    for given in inputs:
        found = _images(given, out, recursive)
        if not found:
            raise UsageError(f"there are no images in {given} ({', '.join(IMAGES)}): there is nothing to do")
        images |= dict.fromkeys(map(str, found))
    lines = [Line(number, {"image": image}) for number, image in enumerate(images, start=1)]
    return Inputs(lines, Path(), manifest=False)


def _images(given: str, out: Path, recursive: bool) -> list[Path]:
    path = at_home(given)
    if path.is_dir():
        if out.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"--out {out} lies in {path}, whose images are read: choose a folder elsewhere")
        return sorted(file for file in (path.rglob("*") if recursive else path.iterdir()) if _is_image(file))
    if path.exists():
        if is_manifest(path):
            raise UsageError(f"{path} is a manifest: give it alone")
        if not _is_image(path):
            raise UsageError(
                f"{path} is neither an image ({', '.join(IMAGES)}) nor a manifest ({', '.join(MANIFESTS)})"
            )
        return [path]
    if glob.has_magic(given):
        found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns, too
        return sorted(file for file in found if _is_image(file) and not file.resolve().is_relative_to(out.resolve()))
    raise UsageError(f"there is no {given}: give a manifest, a folder, a glob pattern or images")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES and path.is_file()
