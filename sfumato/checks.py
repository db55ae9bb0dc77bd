"""Checks of single values at the public boundary: type, range, finiteness, size.

Each check takes the name of a value and the value, and gives the value as the code behind it may use it (numpy's
numbers as Python's, for one). What does not fit raises a `UsageError` that names the value and what is allowed. All
arguments, options, recipes and files from outside go through these, so that they are refused alike.
"""

from __future__ import annotations

import math
import numbers
import os
import reprlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from sfumato.errors import UsageError

Value = TypeVar("Value")
Check = Callable[[str, Any], Any]
"""Takes a name and a value; gives the value as it is to be used, or raises a UsageError."""

LARGEST = 10**9
"""Bound of a number that has no other one: what lies beyond is a mistake, and overflows where it is used."""
MAX_TEXT = 10_000
"""Characters of a prompt, of which a text encoder reads some dozen words at a time."""
MAX_LIST = 1_000
MAX_DEPTH = 32
MAX_SIDE = 16_384
SEEDS = (-(2**63), 2**64 - 1)
"""What a `torch.Generator` takes."""


class _Short(reprlib.Repr):
    """`repr` that stays short, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 256:
            return f"a whole number of {int(value.bit_length() * math.log10(2)) + 1} digits"
        return repr(value)


_short = _Short()


def shown(value: Any) -> str:
    """A value in a message: as `repr` writes it, but never longer than a line or two."""
    return _short.repr(value)


def refuse(name: str, wanted: str, value: Any) -> UsageError:
    """The error for a value that is not what is wanted."""
    return UsageError(f"{name} must be {wanted}, got {shown(value)}")


def whole(name: str, value: Any, *, low: int = -LARGEST, high: int = LARGEST) -> int:
    """A whole number in [low, high]; neither a float nor a bool is one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= (found := int(value)) <= high:
        raise refuse(name, f"a whole number {_range(low, high, of='of ')}", value)
    return found


def number(
    name: str,
    value: Any,
    *,
    low: float = -LARGEST,
    high: float = LARGEST,
    above: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> float:
    """A finite number in [low, high], above `above` and below `below` where these are given in their place."""
    found = _as_float(value)
    low, high = low if above is None else above, high if below is None else below
    # not: `found < low or ...`, which NaN would pass
    if found is None or not low <= found <= high or found in (above, below):
        wanted = _range(low, high)
        if above is not None or below is not None:
            wanted = f"in {'[' if above is None else '('}{low:g}, {high:g}{']' if below is None else ')'}"
        wanted = wanted if found is not None else f"a number {wanted}"
        raise UsageError(f"{name} must be {wanted}, got {shown(value)}{hint}")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False; numpy's too, but no 0, 1 or word."""
    if not (isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")):
        raise refuse(name, "True or False", value)
    return bool(value)


def text(name: str, value: Any, *, most: int = MAX_TEXT, empty: str | None = None) -> str:
    """Text of at most `most` characters that UTF-8 can write.

    Args:
        name, value: See the module.
        most: Characters.
        empty: What to say of text without words; None: it is allowed.
    """
    if not isinstance(value, str):
        raise refuse(name, "text", value)
    if len(value) > most:
        raise UsageError(f"{name} must have at most {most} characters, got {len(value)}: shorten it")
    if not is_text(value):
        raise UsageError(f"{name} holds half a character (a lone surrogate): {shown(value)}; write it again")
    if empty is not None and not value.strip():
        raise UsageError(f"{name} is empty: {empty}")
    return value


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8, which one with lone surrogates cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def path(name: str, value: Any) -> str | os.PathLike[str]:
    """A path as the system takes it: neither empty nor longer than 4,096 bytes, without null characters."""
    given = value.__fspath__() if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise refuse(name, "a path", value)
    try:
        size = len(os.fsencode(given))
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= 4096 or "\0" in given:
        raise refuse(name, "a path of at most 4096 bytes, neither empty nor with null characters", value)
    return given if isinstance(value, str) else value


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """One of several words."""
    if not isinstance(value, str) or value not in allowed:
        raise refuse(name, f"one of {', '.join(allowed)}", value)
    return value


def instance(name: str, value: Any, kind: type[Value], wanted: str) -> Value:
    """An object of a class."""
    if not isinstance(value, kind):
        raise refuse(name, wanted, value)
    return value


def listed(name: str, value: Any, check: Check, *, fewest: int = 0, most: int = MAX_LIST) -> list[Any]:
    """A list, a tuple or an array, each part of it checked."""
    value = plain(value)
    if not isinstance(value, list | tuple):
        raise refuse(name, "a list", value)
    if not fewest <= len(value) <= most:
        raise UsageError(f"{name} must have {fewest} to {most} entries, got {len(value)}")
    return [check(name, part) for part in value]


def table(name: str, value: Any, check: Check | None = None) -> dict[str, Any]:
    """A mapping from names to values, which are checked where a check is given."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise refuse(name, "a table of name=value", value)
    return {key: value[key] if check is None else check(f"{name}[{key!r}]", value[key]) for key in value}


def optional(check: Check) -> Check:
    """The same check, which lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def guidance(name: str, value: Any) -> float:
    """A guidance scale, in [1, 100]."""
    return number(name, value, low=1.0, high=100.0, hint=" (1 = off)")


def interval(name: str, value: Any) -> tuple[float, float]:
    """(start, end) in shares of a run, 0 <= start < end <= 1."""
    try:
        start, end = listed(name, value, partial(number, low=0.0, high=1.0), fewest=2, most=2)
    except UsageError:
        start = end = 0.0
    if not start < end:
        raise refuse(name, "(start, end) with 0 <= start < end <= 1", value)
    return start, end


def seed(name: str, value: Any) -> int:
    """The seed itself, where a generator takes it; a random one for -1."""
    found = whole(name, value, low=SEEDS[0], high=SEEDS[1])
    return secrets.randbelow(2**32) if found == -1 else found


def size(name: str, value: Any) -> tuple[int, int]:
    """(width, height) in pixels, each in [1, 16384]."""
    width, height = _several(name, value, 2, "(width, height) in pixels", high=MAX_SIDE, low=1)
    return width, height


def colour(name: str, value: Any) -> tuple[int, int, int]:
    """(red, green, blue), each in [0, 255]."""
    red, green, blue = _several(name, value, 3, "(red, green, blue)", low=0, high=255)
    return red, green, blue


def leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """All that lists and tables hold, the names of tables among them; the value itself where it is neither.

    Raises:
        UsageError: They lie deeper than 32 in one another, or hold themselves.
    """
    if depth > MAX_DEPTH:
        raise UsageError(f"lists and tables may lie at most {MAX_DEPTH} deep in one another")
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield name
            yield from leaves(part, depth + 1)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part, depth + 1)
    else:
        yield value


def plain(value: Any, depth: int = 0) -> Any:
    """The same with numpy's numbers and arrays, also inside lists and tables, as Python's numbers and lists."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if depth > MAX_DEPTH:
        return value
    if type(value) in (list, tuple):
        return type(value)(plain(part, depth + 1) for part in value)
    if type(value) is dict:
        return {key: plain(part, depth + 1) for key, part in value.items()}
    return value


def allowed(low: float | None, high: float | None) -> str:
    """A range as mathematics writes it; empty without bounds."""
    if low is None and high is None:
        return ""
    left = "(-inf" if low is None else f"[{low:g}"
    right = "inf)" if high is None else f"{high:g}]"
    return f"{left}, {right}"


def _several(name: str, value: Any, count: int, what: str, *, low: int, high: int) -> list[int]:
    def part(name: str, value: Any) -> int:
        return whole(name, value, low=low, high=high)

    try:
        return listed(name, value, part, fewest=count, most=count)
    except UsageError:
        raise refuse(name, f"{what}, whole numbers in {allowed(low, high)}", value) from None


def _as_float(value: Any) -> float | None:
    """A real number as a float, infinity where it is too large for one; None for anything else, bools among them."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _range(low: float, high: float, *, of: str = "") -> str:
    if high < LARGEST:
        return f"in [{low:g}, {high:g}]"
    return f"{of}at least {low:g}" if low > -LARGEST else f"in [{low:g}, {high:g}]"
