"""Reads JSON that came from outside: recipes in images, fields of tensor files, rows of runs, mappings, manifests.

It may be from a stranger, or from a killed process. `read_json` bounds what the text may cost (size, depth) and refuses
what JSON should not hold (NaN, numbers beyond a float, lone surrogates, a name twice). `check_fields` then holds an
object to a table of names and checks, the same checks that arguments go through (`sfumato.checks`).
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sfumato.checks import MAX_DEPTH, Check, is_text, leaves, shown
from sfumato.errors import SfumatoError, UsageError

MAX_BYTES = 4_000_000

_BRACKETS_AND_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
_MOST_DIGITS = 309  # of a whole number that a float can hold


class JsonError(ValueError):
    """A text is no JSON that we read; the message says why, without naming the file. Callers name file and remedy."""


def read_json(text: str | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads one JSON value, all of it checked.

    Args:
        text: Text, or UTF-8 bytes, with or without a byte order mark.
        max_bytes: Size of the text.

    Raises:
        JsonError: The text is too long, too deep, no JSON, or holds what `check_values` refuses.
    """
    return check_values(parse_json(text, max_bytes=max_bytes))


def parse_json(text: str | bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads one JSON value, bounded in size and depth, its numbers and texts not yet checked.

    For lists of entries that are checked one by one, so that a bad one does not spoil the others: call `check_values`
    on each. A number beyond what a float can hold becomes infinity.

    Raises:
        JsonError: The text is too long, too deep, or no JSON.
    """
    if len(text) > max_bytes:
        raise JsonError(f"it has {len(text)} bytes, more than {max_bytes}")
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    if _depth(plain) > MAX_DEPTH:
        raise JsonError(f"its lists and objects lie deeper than {MAX_DEPTH} in one another")
    try:
        return json.loads(plain, parse_int=_whole, object_pairs_hook=_object)
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(f"it is no JSON: {error}") from None


def check_values(value: Any) -> Any:
    """Gives the value, when all of its numbers are finite and all of its texts can be written as UTF-8.

    Raises:
        JsonError: Names what is wrong.
    """
    for part in leaves(value):
        if isinstance(part, float) and not math.isfinite(part):
            raise JsonError("it holds a number that is not finite, or too large")
        if isinstance(part, str) and not is_text(part):
            raise JsonError(f"it holds half a character (a lone surrogate) in {shown(part)}")
    return value


def check_fields(
    values: Any,
    checks: Mapping[str, Check],
    *,
    optional: Iterable[str] = (),
    what: str,
    remedy: str,
    error: type[SfumatoError],
) -> dict[str, Any]:
    """Holds an object to a table of names and checks.

    Args:
        values: What was read.
        checks: By name.
        optional: Names that may be missing; they are missing in the result, too.
        what: Words for the object, such as "the recipe in cat.png".
        remedy: What the user can do, such as "give the options by hand".
        error: What is raised.

    Returns:
        The values as their checks gave them.

    Raises:
        SfumatoError: Of the type `error`: it is no object, lacks a name, has one that is not known, or a check refused
            its value.
    """
    if not isinstance(values, Mapping):
        raise error(f"{what} is damaged (no object with names): {remedy}")
    lacking = [name for name in checks if name not in values and name not in set(optional)]
    if lacking:
        raise error(f"{what} is damaged ({lacking[0]} is missing): {remedy}")
    unknown = [name for name in values if name not in checks]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0])[:100], list(checks), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise error(f"{what} holds {shown(unknown[0])}, which this version does not know{hint}: {remedy}")
    found = {}
    for name, value in values.items():
        try:
            found[name] = checks[name](name, value)
        except UsageError as refused:
            raise error(f"{what} is damaged ({refused}): {remedy}") from refused
    return found


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKETS_AND_STRINGS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return deepest


def _whole(digits: str) -> int | float:
    if len(digits.lstrip("-")) > _MOST_DIGITS or math.isinf(float(digits)):
        return -math.inf if digits.startswith("-") else math.inf
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"it names {shown(twice)} twice in one object")
    return found
