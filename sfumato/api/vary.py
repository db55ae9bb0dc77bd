"""Ranges of options that a slider varies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato import checks
from sfumato.edits.method import Method
from sfumato.errors import UsageError

Range = tuple[float, float]
Vary = Mapping[str, Range | Mapping[str, Range]]
GUIDANCE = "guidance_scale"


def check_vary(vary: Any, entry: Method | None) -> dict[str, Any]:
    """The ranges as tuples, each end of which the option allows; of a method that is not known yet, the tuples.

    Raises:
        UsageError: An option is unknown or takes no such numbers, or a range is not two numbers.
    """
    if not checks.table("vary", vary):
        raise UsageError("vary is empty: name an option and its range, such as {'strength': (0.2, 0.9)}")
    found: dict[str, Any] = {}
    for name, given in vary.items():
        if isinstance(given, Mapping):
            found[name] = {word: _ends(name, ends) for word, ends in checks.table(name, given).items()}
        else:
            found[name] = _ends(name, given)
    for weight in (0.0, 1.0):
        values = options_at(found, weight, {})
        if GUIDANCE in values:
            checks.guidance(GUIDANCE, values.pop(GUIDANCE))
        if entry is not None:
            entry.check_options(values)
    return found


def options_at(ranges: Vary | None, weight: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """The varied options at a weight, per-word ones together with the words that stay."""

    def at(ends: Range) -> float:
        return float(ends[1] if weight == 1.0 else ends[0] + weight * (ends[1] - ends[0]))

    found: dict[str, Any] = {}
    for name, given in (ranges or {}).items():
        if isinstance(given, Mapping):
            found[name] = {**(options.get(name) or {}), **{word: at(ends) for word, ends in given.items()}}
        else:
            found[name] = at(given)
    return found


def _ends(name: str, ends: Any) -> Range:
    try:
        low, high = checks.listed(name, ends, checks.number, fewest=2, most=2)
    except UsageError:
        raise UsageError(f"vary takes (low, high) of {name}, got {checks.shown(ends)}") from None
    return low, high
