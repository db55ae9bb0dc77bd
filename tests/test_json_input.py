"""JSON from outside: what is refused, and that no text costs more than it may."""

import json
import math
import time
from typing import Any

import pytest

from sfumato import checks
from sfumato.errors import ImageError
from sfumato.json_input import JsonError, check_fields, check_values, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 10_000 + "]" * 10_000, "deeper than 32"),
        ('{"a":' * 10_000, "deeper than 32"),
        ("[" * 100_000, "deeper than 32"),
        ("9" * 5_000, "not finite, or too large"),
        ("1" + "0" * 400, "not finite, or too large"),
        ("-1e999", "not finite, or too large"),
        ('{"a": NaN}', "not finite, or too large"),
        ("[Infinity]", "not finite, or too large"),
        (r'["\ud800"]', "half a character"),
        (r'{"\udfff": 1}', "half a character"),
        ('{"a": 1, "a": 2}', "names 'a' twice"),
        ("{", "no JSON"),
        ("", "no JSON"),
        ("\0" * 100, "no JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b" " * 5_000_000, "more than 4000000"),
        ('"' + '\\"' * 1_000_000, "no JSON"),
    ],
)
def test_hostile_json_is_refused_at_once(text: str | bytes, says: str) -> None:
    start = time.process_time()
    with pytest.raises(JsonError, match=says):
        read_json(text)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, ']}[{ \\" é']}, [], 10**300, {"a": {"b": [[[]]]}}])
def test_what_json_holds_comes_back(value: Any) -> None:
    text = json.dumps(value)
    assert read_json(text) == read_json(text.encode()) == read_json(b"\xef\xbb\xbf" + text.encode()) == value


def test_a_bad_entry_is_found_by_itself() -> None:
    entries = parse_json('{"good": [1], "huge": [1' + "0" * 400 + '], "nan": NaN}')
    assert check_values(entries["good"]) == [1]
    assert entries["huge"] == [math.inf]
    for name in ("huge", "nan"):
        with pytest.raises(JsonError, match="not finite"):
            check_values(entries[name])


def test_fields_are_held_to_their_table() -> None:
    table = {"name": checks.text, "seed": checks.seed, "size": checks.optional(checks.size)}
    given: dict[str, Any] = {"what": "the recipe in a.png", "remedy": "give it by hand", "error": ImageError}
    good = {"name": "cat", "seed": 5, "size": [64, 32]}
    assert check_fields(good, table, **given) == {"name": "cat", "seed": 5, "size": (64, 32)}
    assert check_fields({"name": "cat", "seed": 5}, table, optional=["size"], **given) == {"name": "cat", "seed": 5}
    for values, says in (
        ([1], "no object with names"),
        ({"name": "cat", "seed": 5}, "size is missing"),
        ({**good, "evil": 1}, "'evil', which this version does not know"),
        ({**good, "name": 5}, "name must be text, got 5"),
        ({**good, "seed": True}, "seed must be a whole number"),
        ({**good, "size": []}, r"size must be \(width, height\)"),
    ):
        with pytest.raises(ImageError, match=says) as error:
            check_fields(values, table, **given)
        assert str(error.value).endswith(": give it by hand")
