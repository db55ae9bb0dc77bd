"""Reading the values of options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.registry import Entry


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given; the others are as they are by default, or as a recipe has them."""
    return {name: value for name, value in arguments.items() if value is not None}


def check_images(*paths: Path | None) -> None:
    """Finds a missing or damaged image before anything heavy is done.

    Raises:
        ImageError: One cannot be read.
    """
    from sfumato.images import load_image

    for path in paths:
        if path is not None:
            load_image(path)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Reads WIDTHxHEIGHT.

    Raises:
        UsageError: It is something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*([1-9]\d{0,5})\s*[xX×,]\s*([1-9]\d{0,5})\s*", text)
    if found is None:
        raise UsageError(f"--size must be WIDTHxHEIGHT in pixels, such as 512x512, got {text!r}")
    return int(found[1]), int(found[2])


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """Reads START,END of --guidance-interval.

    Raises:
        UsageError: It is something else.
    """
    if text is None:
        return None
    from sfumato import checks

    try:
        return checks.interval("--guidance-interval", [float(part) for part in text.split(",")])
    except ValueError:
        raise checks.refuse("--guidance-interval", "START,END, such as 0,0.7", text) from None


def parse_options(
    entry: Entry[Any], settings: Iterable[str] | None, weights: Iterable[str] | None = None, *, flag: str = "--set"
) -> dict[str, Any]:
    """Reads `--set name=value` and `--weight WORD=FACTOR` into options of a method or an inversion, checked.

    Raises:
        UsageError: An option is unknown (with the closest name), malformed, given twice, or out of range.
    """
    options: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UsageError(f"{flag} takes name=value, got {setting!r}")
        name = entry.option(name)
        if name in options:
            raise UsageError(f"{flag} {name} is given twice")
        options[name] = entry.parameters[name].parse(text)
    factors: dict[str, float] = {}
    for weight in weights or ():
        word, equals, text = weight.rpartition("=")
        try:
            factors[word.strip()] = float(text)
        except ValueError:
            equals = ""
        if not equals or not word.strip():
            raise UsageError(f"--weight takes WORD=FACTOR, such as dog=1.5, got {weight!r}")
    if factors and "weights" not in entry.parameters:
        raise UsageError(f"--weight: the method {entry.name} has no word weights; use --method prompt-to-prompt")
    if factors:
        options["weights"] = {**(options.get("weights") or {}), **factors}
    return entry.check_options(options)


def parse_inversion_options(settings: Iterable[str] | None, name: str | None, method: str) -> dict[str, Any]:
    """Reads `--set-inversion name=value` into options of an inversion, by default the method's first choice, checked.

    Raises:
        UsageError: The method, the inversion or an option is unknown, or as in `parse_options`.
    """
    from sfumato.edits.method import METHODS
    from sfumato.inversions.method import INVERSIONS

    entry = METHODS[method]
    if name is None and not settings:
        return {}
    return parse_options(INVERSIONS[name or entry.default_inversion], settings, flag="--set-inversion")
