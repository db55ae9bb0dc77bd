"""The drawings of the emoji world: free emoji sets, downloaded once and checked.

`python -m sfumato.emoji.training.data` fetches the pinned npm packages into a cache folder (`SFUMATO_CACHE`, by default
`~/.cache/sfumato`), and checks their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato import files
from sfumato.emoji.scenes import STYLES, Concept

PACKAGES: dict[str, tuple[str, str, str]] = {
    "noto": (
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "twemoji": (
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "flat": (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "glossy": (
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
}
"""Style word of the captions -> npm package that draws it, version, SHA-256 of its tarball."""


class DataError(RuntimeError):
    """The emoji drawings cannot be had; the message says what to do."""


def cache_folder() -> Path:
    """The folder of downloads, renderings and checkpoints: `$SFUMATO_CACHE/emoji`, or `~/.cache/sfumato/emoji`."""
    return files.cache_folder("emoji")


def fetch(style: str) -> Path:
    """Fetches the pinned package of a style unless the cache holds it.

    Args:
        style: A key of `PACKAGES`.

    Returns:
        The folder of the unpacked package.

    Raises:
        DataError: npm is missing, the download failed, or the tarball is not the pinned one.
    """
    package, version, expected = PACKAGES[style]
    stem = f"{package.removeprefix('@').replace('/', '-')}-{version}"
    folder = cache_folder() / stem
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"{package}@{version} is not in {cache_folder()} and npm is not installed: install Node.js")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        command = [npm, "pack", "--silent", f"{package}@{version}"]
        run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        tarballs = list(Path(scratch).glob("*.tgz"))
        if run.returncode or len(tarballs) != 1:
            raise DataError(
                f"npm could not fetch {package}@{version} (is the network up?): {run.stderr.strip()[-400:]}"
            )
        found = hashlib.sha256(tarballs[0].read_bytes()).hexdigest()
        if found != expected:
            raise DataError(f"{package}@{version} has SHA-256 {found}, expected {expected}: refused")
        with tarfile.open(tarballs[0]) as archive:
            archive.extractall(scratch, filter="data")
        try:
            (Path(scratch) / "package").rename(folder)
        except OSError as error:
            if not folder.is_dir():  # another process may have won the race, which is as good
                raise DataError(f"cannot write {folder}: {error}") from error
    return folder


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class Drawings:
    """The SVG drawings of some styles.

    Args:
        styles: Styles to load.

    Raises:
        DataError: See `fetch`.
    """

    def __init__(self, styles: Sequence[str] = STYLES) -> None:
        self._sets = {style: _read_json(fetch(style) / "icons.json") for style in styles}
        # the glossy set has no table of code points; its icons share their names with the flat set
        self._names = {
            style: _read_json(fetch(style) / "chars.json") or _read_json(fetch("flat") / "chars.json")
            for style in styles
        }

    def icon(self, concept: Concept, style: str) -> tuple[str, float, float] | None:
        """Returns (SVG body, width, height) of a concept's drawing, or None where the style lacks it."""
        names, icons = self._names[style], self._sets[style]
        code = concept.hexcode.lower()
        name = names.get(code) or names.get(code.replace("-fe0f", ""))
        icon = icons["icons"].get(name)
        if icon is None:
            return None
        return icon["body"], float(icon.get("width", icons["width"])), float(icon.get("height", icons["height"]))


def _main() -> None:
    from rich.console import Console

    console = Console()
    try:
        for style, (package, version, _) in PACKAGES.items():
            console.print(f"{style}: {package}@{version} in {fetch(style)}")
    except DataError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    _main()
