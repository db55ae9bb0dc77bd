"""Odd and hostile values for arguments and options, drawn from a seeded generator."""

from __future__ import annotations

import copy
import os
import random
import traceback
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.errors import SfumatoError

WHOLE = os.environ.get("SFUMATO_FUZZ", "") == "all"
"""Whether all is tried (`make fuzz`), or a quick slice of it."""


class Broken:
    """Nothing can be asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __len__(self) -> int:
        raise RuntimeError("no length")


def _cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**400), 10**5000,
    0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e308, float("nan"), float("inf"), -float("inf"), 1 + 2j, Decimal("0.5"),
    Fraction(1, 2), "", " ", "cat", "3", "nan", "a photo of a dog", "\0", "\ud800", "x" * 20_000, "[" * 5_000,
    "../../etc/passwd", "/dev/zero", "http://127.0.0.1:9/x", "\x1b[2J", "auto", "ddim", "dog:nan", b"cat",
    bytearray(b"x"), [], [1], [1, 2], (0.2, 0.8), ["cat"], ["cat", "dog"], [None], [[1], [2]], (64, 64),
    (float("nan"), 0.5), [10**400],
    [0.5] * 2_000, _nested(200), _cycle(), {}, {"a": 1}, {"dog": float("nan")}, {"dog": 2.0}, {1: 2}, {"a": {"b": []}},
    {"default": 10**400}, {"\ud800": 1}, {"text-agreement": 1.0}, {1, 2}, iter([1]), range(3),
    np.int64(3), np.float32(0.5), np.float64("nan"), np.bool_(True), np.array(3), np.array([1, 2]), np.array([]),
    np.zeros((2, 2, 2)), np.str_("cat"), torch.tensor(0.5), torch.tensor(3), torch.ones(2), torch.zeros(1, 3, 64, 64),
    torch.empty(2, 2, device="meta"), torch.eye(3).to_sparse(), torch.tensor(float("nan")), torch.zeros(0),
    Image.new("RGB", (64, 64)), Image.new("L", (3, 5), 255), Path("nowhere.png"), Path(), object(), object, int, len,
    Broken(),
)  # fmt: skip


def odd_value(draw: random.Random) -> Any:
    """One of the values above; a copy, since some of them can be changed."""
    return copy.deepcopy(draw.choice(VALUES))


def odd_text(draw: random.Random) -> str:
    """A value as the command line would give it."""
    numbers = ("nan", "inf", "-inf", "1e999", "1e400", "9" * 5_000, "0", "1", "-1", "0.5", "2.5")
    nested = (
        "[" * 5_000,
        '{"a":' * 500,
        "[1,",
        "{}",
        '{"a": NaN}',
        "[NaN, 1]",
        "[0.2, 0.8]",
        '{"dog": 2}',
        '"\\ud800"',
    )
    words = ("", " ", "none", "null", "true", "dog", "\0", "\ud800", "x" * 20_000)
    drawn = (str(draw.uniform(-2, 2)), str(draw.randint(-(2**70), 2**70)))
    return draw.choice((*numbers, *nested, *words, *drawn))


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """What became of a call: "worked", "refused" in our own words, or "raw", which no call should be; and the words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except SfumatoError as error:
        return ("refused" if len(str(error)) < 2_000 else "raw"), str(error)[:300]
    except Exception as error:  # noqa: BLE001 - what the tests are about
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "raw", f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
    return "worked", ""
