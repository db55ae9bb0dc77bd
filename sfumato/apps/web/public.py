"""What may leave the server: no path of this computer does, only names of files and models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATH = re.compile(r"(?<![\w./])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"<>|:]+[/\\])+([^\s/\\'\"<>|:]*)")


def without_paths(text: str) -> str:
    """A message in which absolute paths are cut down to the name of the file."""
    return _PATH.sub(lambda found: found[1] or "...", text)


def model_label(name: str) -> str:
    """The name of a model as it is shown: of a folder or a file, its last part."""
    path = Path(name)
    return path.resolve().name if path.is_absolute() or name.startswith(("~", ".")) or path.exists() else name


def file_label(name: str, otherwise: str = "image.png") -> str:
    """The name that a client gave a file, without folders and what cannot be printed."""
    last = re.split(r"[/\\]", name)[-1].strip().lstrip(".-")
    return "".join(letter for letter in last if letter.isprintable())[:100] or otherwise


def public_recipe(recipe: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe whose files and model have names without folders.

    Args:
        recipe: Of a result.
        files: What the client called the `image`, the `images` and the `mask`.
    """
    found = {key: _names_only(value) for key, value in recipe.items()}
    if "model" in found:
        found["model"] = model_label(found["model"])
    for key in ("image", "mask"):
        if isinstance(found.get(key), dict) and files.get(key):
            found[key] = {**found[key], "path": files[key]}
    if files.get("images"):
        found["images"] = [
            {**origin, "path": name} for origin, name in zip(found["images"], files["images"], strict=True)
        ]
    return found


def _names_only(value: Any) -> Any:
    """The same with every `path` in it cut down to the name of the file."""
    if isinstance(value, Mapping):
        return {
            key: Path(part).name if key == "path" and isinstance(part, str) else _names_only(part)
            for key, part in value.items()
        }
    return [_names_only(part) for part in value] if isinstance(value, list | tuple) else value
