"""Checks of single values: what passes comes back as Python's own, what does not is named in a short message."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato import checks
from sfumato.errors import UsageError

NOT_NUMBERS: list[Any] = [
    None,
    True,
    np.bool_(True),
    "3",
    b"3",
    [],
    [3],
    {},
    float("nan"),
    3 + 0j,
    object(),
    torch.tensor(3),
]
TOO_FAR: list[Any] = [float("inf"), -float("inf"), 10**400, -(10**400), 2**64, 1e308]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *TOO_FAR, 2.5, 4.0, -1, 11])
def test_whole_numbers(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^steps must be a whole number in \[0, 10\], got "):
        checks.whole("steps", value, low=0, high=10)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *TOO_FAR, -0.1, 1.1])
def test_numbers(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^share must be .*in \[0, 1\], got "):
        checks.number("share", value, low=0, high=1)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *TOO_FAR])
def test_numbers_without_bounds_are_finite_all_the_same(value: Any) -> None:
    for check in (checks.whole, checks.number):
        with pytest.raises(UsageError, match=r"^x must be "):
            check("x", value)


def test_open_ranges() -> None:
    assert checks.number("x", 0.5, above=0, below=1) == 0.5
    assert checks.number("x", 1, above=0, high=1) == 1.0
    for value in (0, 1, 1.0, float("nan")):
        with pytest.raises(UsageError, match=r"x must be in \(0, 1\), got"):
            checks.number("x", value, above=0, below=1)
    with pytest.raises(UsageError, match=r"x must be in \(0, 1\], got 0"):
        checks.number("x", 0, above=0, high=1)


def test_numbers_of_numpy_become_pythons() -> None:
    assert type(checks.whole("x", np.int64(3))) is int
    assert type(checks.number("x", np.float32(0.5))) is float
    assert checks.flag("x", np.bool_(True)) is True
    assert checks.size("x", np.array([64, 32])) == (64, 32)
    assert checks.plain({"a": [np.float32(0.5), (np.int8(3),)], "b": np.arange(2)}) == {"a": [0.5, (3,)], "b": [0, 1]}


@pytest.mark.parametrize("value", [0, 1, "yes", None, torch.tensor(True), np.array([True])])
def test_flags(value: Any) -> None:
    with pytest.raises(UsageError, match="x must be True or False"):
        checks.flag("x", value)


@pytest.mark.parametrize("value", [None, 3, b"cat", ["cat"], "\ud800", "x" * 10_001])
def test_texts(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^prompt "):
        checks.text("prompt", value)


def test_empty_texts() -> None:
    assert checks.text("x", " ") == " "
    with pytest.raises(UsageError, match="x is empty: say it"):
        checks.text("x", " \n", empty="say it")


@pytest.mark.parametrize("value", [None, 3, b"a.png", "", "a\0b", "a" * 5_000, "\ud800", ["a"]])
def test_paths(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^out must be a path"):
        checks.path("out", value)


def test_good_paths() -> None:
    assert checks.path("x", "a.png") == "a.png"
    assert checks.path("x", Path("a.png")) == Path("a.png")
    assert checks.path("x", "caf\udce9.png") == "caf\udce9.png"  # a name that is not UTF-8, as the system gives it


@pytest.mark.parametrize(
    "value",
    [None, 5, "64x64", (64,), (64, 64, 64), (64.5, 64), (0, 64), (-8, 8), (True, True), (10**9, 8), [[64], [64]]],
)
def test_sizes(value: Any) -> None:
    with pytest.raises(
        UsageError, match=r"^size must be \(width, height\) in pixels, whole numbers in \[1, 16384\], got"
    ):
        checks.size("size", value)


@pytest.mark.parametrize("value", [None, 5, "red", (1, 2), (1, 2, 3, 4), (0.5, 0.5, 0.5), (256, 0, 0), [[1], [2], [3]]])
def test_colours(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^background must be \(red, green, blue\), whole numbers in \[0, 255\], got"):
        checks.colour("background", value)


def test_seeds() -> None:
    for seed in (0, -2, -(2**63), 2**64 - 1, np.uint64(2**64 - 1)):
        assert checks.seed("seed", seed) == seed
        torch.Generator().manual_seed(checks.seed("seed", seed))
    drawn = {checks.seed("seed", -1) for _ in range(5)}
    assert len(drawn) == 5
    assert all(0 <= seed < 2**32 for seed in drawn)
    for wrong in (2**64, -(2**63) - 1, 1.5, "3", None, True, 10**400):
        with pytest.raises(UsageError, match=r"^seed must be a whole number in"):
            checks.seed("seed", wrong)


def test_lists_and_tables() -> None:
    assert checks.listed("x", ("a", "b"), checks.text) == ["a", "b"]
    for wrong in ("ab", b"ab", {"a": 1}, {"a"}, 5, None, iter("ab"), torch.tensor(1.0), np.array(1.0)):
        with pytest.raises(UsageError, match="x must be a list"):
            checks.listed("x", wrong, checks.text)
    with pytest.raises(UsageError, match="x must have 1 to 1000 entries, got 0"):
        checks.listed("x", [], checks.text, fewest=1)
    for wrong in ([], None, {1: 2}, "a"):
        with pytest.raises(UsageError, match="x must be a table"):
            checks.table("x", wrong)


def test_messages_stay_short() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    nested: list[Any] = []
    nested.append(nested)
    for value in (
        10**5000,
        "x" * 10**6,
        [10**400] * 100,
        list(range(10**5)),
        Broken(),
        nested,
        torch.zeros(1000, 1000),
    ):
        assert len(checks.shown(value)) < 400
    with pytest.raises(UsageError, match="deep in one another"):
        list(checks.leaves(nested))
