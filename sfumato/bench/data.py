"""Folders of data from elsewhere: their JSON is limited and checked, and no image outside them is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.checks import Check, shown
from sfumato.errors import ImageError, UsageError
from sfumato.json_input import JsonError, check_fields, check_values, parse_json

MAX_BYTES = 64_000_000
"""Of a file of entries; that of PIE-Bench, with 700 masks, has a tenth of it."""
LONGEST_PATH = 250


def read_entries(file: Path, remedy: str) -> tuple[Any, str]:
    """What a JSON file of entries holds, and the fingerprint by which runs tell data apart; values are not yet checked.

    Raises:
        UsageError: It is missing, no regular file, too large or too deep, or no JSON.
    """
    try:
        if not file.is_file():
            raise FileNotFoundError("there is no such file" if not file.exists() else "it is not a regular file")
        if file.stat().st_size > MAX_BYTES:
            raise JsonError(f"it has more than {MAX_BYTES // 10**6} MB")
        text = file.read_bytes()
        return parse_json(text, max_bytes=MAX_BYTES), hashlib.sha256(text).hexdigest()[:12]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {file} ({reason}): {remedy}") from error


def read_objects(
    entries: Any, table: Mapping[str, Check], file: Path, remedy: str, *, optional: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Holds a list that somebody wrote by hand to a table of names and checks, before any of it is tried.

    Args:
        entries: What `read_entries` gave.
        table: By name.
        file: It came from.
        remedy: For the message: what the file must be.
        optional: Values for names that may be missing.

    Raises:
        UsageError: It is no list, is empty, or an entry of it is not as it must be.
    """
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"cannot use {file}, which holds {shown(entries)}: {remedy}")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            checked = check_fields(
                check_values(entry), table, optional=optional or (), what="the entry", remedy=remedy, error=UsageError
            )
        except (JsonError, UsageError) as error:
            raise UsageError(f"{file}, entry {number}: {error}") from error
        found.append({**(optional or {}), **checked})
    return found


def path_inside(folder: Path, name: Any, *, below: str = "") -> Path:
    """The path of a file of the data, by its name as an entry gives it.

    Args:
        folder: Which the file must not lie outside of: not by `..`, not by an absolute path, not by a link.
        name: The path of the file.
        below: What the name starts from, inside the folder.

    Raises:
        ImageError: It is no path, or leads outside.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ImageError(f"the path of an image must be text, got {shown(name)}")
    if len(name) > LONGEST_PATH:
        raise ImageError(f"the path of an image has {len(name)} characters, more than {LONGEST_PATH}")
    try:
        root = folder.resolve()
        path = (root / below / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long, half a character, links in a circle
        raise ImageError(f"cannot read {shown(name)}: {error}") from error
    if not path.is_relative_to(root):
        raise ImageError(f"{shown(name)} leads outside {folder}: put the image into that folder")
    return path
