"""How the items of a batch lie: the name of each image, which items are run together, and which by which machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato import checks
from sfumato.api.batch_items import Item, Settings
from sfumato.errors import UsageError
from sfumato.registry import unknown
from sfumato.run.rows import safe_name

MOST_TARGETS = 8
"""Targets in one run, each a row or two of the network."""
MOST_IN_GROUP = 16
"""Runs that follow one another in one worker, so that many workers can share one image."""
NAME_PARTS = ("stem", "id", "index", "target", "method", "seed", "key")
_LONGEST_NAME = 120


def check_settings(settings: Settings) -> None:
    """Checks the template of names.

    Raises:
        UsageError: It has an ending or a part that is not known, or a folder.
    """
    ending = Path(settings.name).suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"--name must end in .png, .jpg or .webp, got {checks.shown(settings.name)}")
    if "/" in settings.name or "\\" in settings.name:
        raise UsageError(f"--name must be a name without folders, got {checks.shown(settings.name)}")
    for part in re.findall(r"\{([^{}]*)\}", settings.name):
        if part not in NAME_PARTS:
            raise UsageError(unknown("part of --name", part, list(NAME_PARTS)))


def named(items: Sequence[Item], settings: Settings, taken: Mapping[str, str]) -> list[Item]:
    """The items with names, no two alike on any system: who comes second has its key in it, and a number if need be.

    Args:
        items: All of the batch, in its order.
        settings: With the template.
        taken: Keys of the images that are there, by name in lower case.
    """
    given: set[str] = set()
    tried: dict[str, int] = {}
    found = []
    for item in items:
        ending = settings.movie if item.command == "morph" else Path(settings.name).suffix
        name = wanted = _name(item, settings)
        while (low := f"{name}{ending}".lower()) in given or taken.get(low, item.key) != item.key:
            name = f"{wanted}-{item.key[:8]}"
            tried[name] = tried.get(name, 0) + 1
            if tried[name] > 1:
                name += f"-{tried[name]}"
        given.add(low)
        found.append(replace(item, name=f"{name}{ending}"))
    return found


def runs_of(items: Iterable[Item]) -> list[list[list[Item]]]:
    """Groups of runs of items: a run is one call of the model's, the runs of a group share their image.

    Items of equal key must be there once, and none with an error.
    """
    groups: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        groups.setdefault(item.shared, {}).setdefault(item.alike, []).append(item)
    found = []
    for group in groups.values():
        runs = [
            together[k : k + MOST_TARGETS] for together in group.values() for k in range(0, len(together), MOST_TARGETS)
        ]
        found += [runs[k : k + MOST_IN_GROUP] for k in range(0, len(runs), MOST_IN_GROUP)]
    return found


def in_shard(item: Item, shard: tuple[int, int] | None) -> bool:
    """Whether an item belongs to part K of N; items of one image do so together."""
    return shard is None or int(hashlib.sha256(item.shared.encode()).hexdigest()[:8], 16) % shard[1] == shard[0] - 1


def _name(item: Item, settings: Settings) -> str:
    """The name that the template makes, without its ending."""
    arguments = item.arguments
    images = arguments.get("images")
    paths = (
        images if isinstance(images, list) else [arguments.get("image") or arguments.get("source_prompt") or "image"]
    )
    parts: dict[str, Any] = {
        "stem": "-to-".join(Path(str(path)).stem for path in (paths if len(paths) < 3 else [paths[0], paths[-1]])),
        "id": item.id or item.index,
        "index": item.index,
        "target": arguments.get("target_prompt") if isinstance(arguments.get("target_prompt"), str) else "",
        "method": arguments.get("method") or "",
        "seed": arguments.get("seed", 0),
        "key": item.key,
    }
    template = settings.name[: -len(Path(settings.name).suffix)]
    text = re.sub(r"\{([a-z]+)\}", lambda part: _slug(str(parts[part[1]])), template)
    plain = safe_name(re.sub("-{2,}", "-", text).strip("-.") or "image")
    return plain[:_LONGEST_NAME]


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[\w.=,]+", text))[:60]
