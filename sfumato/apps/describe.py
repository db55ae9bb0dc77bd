"""What programs see of methods, inversions, morphs and spacings, read from their own declarations."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sfumato.emoji.defaults import METHOD_OPTIONS

if TYPE_CHECKING:
    from sfumato.registry import Entry


def entry_fields(entry: Entry[Any]) -> dict[str, Any]:
    """An entry of a registry with its options, in JSON's types."""
    options = [
        {
            "name": parameter.name,
            "help": parameter.help,
            "type": parameter.type_name,
            "choices": list(parameter.choices),
            "required": parameter.default is inspect.Parameter.empty,
            "default": None if parameter.default is inspect.Parameter.empty else parameter.default,
            "low": parameter.low,
            "high": parameter.high,
        }
        for parameter in entry.parameters.values()
    ]
    texts = ("name", "title", "summary", "when", "cost", "paper")
    inversions = inversions_of(entry)
    starts = {} if inversions is None else {"inversions": inversions}
    tuned = {"emoji": dict(METHOD_OPTIONS.get(entry.name, {}))} if inversions is not None else {}
    return {**{key: getattr(entry, key) for key in texts}, **starts, "options": options, **tuned}


def inversions_of(entry: Entry[Any]) -> list[str] | None:
    """Names of the inversions that a method starts from; None for what is no method of editing."""
    names = getattr(entry, "inversions", None)
    return None if names is None else list(names)
