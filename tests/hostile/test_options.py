"""Options of methods, inversions, morphs and spacings take what fits them and refuse the rest in our own words."""

import collections
import random
from functools import partial
from typing import Any

import pytest

from sfumato.edits.method import METHODS
from sfumato.errors import SfumatoError
from sfumato.inversions.method import INVERSIONS
from sfumato.morphs.method import MORPHS
from sfumato.morphs.spacings.base import SPACINGS
from tests.hostile.values import VALUES, WHOLE, odd_text, odd_value, outcome

SETS = 10_000 if WHOLE else 300


def entries() -> list[Any]:
    return [entry for registry in (METHODS, INVERSIONS, MORPHS, SPACINGS) for entry in registry.values()]


def test_sets_of_options_give_our_errors_alone() -> None:
    draw, known = random.Random(0), entries()
    found: collections.Counter[str] = collections.Counter()
    for _ in range(SETS):
        entry = draw.choice(known)
        names = draw.sample([*entry.parameters, "no_such", "model", "__class__"], k=min(3, len(entry.parameters)))
        options = {name: odd_value(draw) for name in names}
        calls = [partial(entry.check_options, options)]
        calls += [partial(entry.parameters[name].parse, odd_text(draw)) for name in names if name in entry.parameters]
        for call in calls:
            kind, words = outcome(call)
            assert kind != "raw", f"{entry.name} {names}: {words}"
            found[kind] += 1
    assert found["refused"] > found["worked"] > 0


NUMBERS = [float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), 1e308, 2**64]


@pytest.mark.parametrize("wrong", NUMBERS, ids=[str(number)[:8] for number in NUMBERS])
def test_no_number_without_bounds(wrong: Any) -> None:
    """None of the options takes a number that is not finite, or overflows where it is used."""
    for entry in entries():
        for parameter in entry.parameters.values():
            for value in (wrong, [wrong], (0.5, wrong), {"dog": wrong}):
                with pytest.raises(SfumatoError):
                    parameter.check(value)


@pytest.mark.skipif(not WHOLE, reason="all of them: make fuzz")
def test_every_value_on_every_option() -> None:
    for entry in entries():
        for parameter in entry.parameters.values():
            for value in VALUES:
                kind, words = outcome(partial(parameter.check, value))
                assert kind != "raw", f"{entry.name} {parameter.name}: {words}"
