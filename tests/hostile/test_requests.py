"""Requests made of odd values, as arguments and as JSON: they are made, or refused by one of our errors."""

import json
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sfumato.api.recipe import REQUESTS
from sfumato.api.request import Request
from tests.hostile.values import WHOLE, odd_value, outcome

TRIES = 20_000 if WHOLE else 1_000
FOLDER = Path(__file__).parents[1] / "api" / "recipes"


def samples() -> list[tuple[type[Request], dict[str, Any]]]:
    """JSON of requests, of every command."""
    found = []
    for file in sorted(FOLDER.iterdir()):
        values = json.loads(file.read_text())
        kind = REQUESTS[values["command"]]
        found.append((kind, {name: value for name, value in values.items() if name in kind.json_fields()}))
    return found


SAMPLES = samples()


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "arguments"])
def test_odd_values_make_no_traceback(as_json: bool) -> None:
    draw, found = random.Random(1), {"worked": 0, "refused": 0, "raw": 0}
    raw = []
    for number in range(TRIES):
        kind, values = draw.choice(SAMPLES)
        names = list(values) if as_json else [argument.name for argument in fields(kind)]
        odd = {name: odd_value(draw) for name in draw.sample(names, k=draw.choice([1, 1, 2]))}
        if as_json:
            given = {**values, **odd}
            nested = draw.choice(["image", "mask", "inverted", "options", "inversion_options", "images"])
            if draw.random() < 0.3 and isinstance(values.get(nested), dict):
                given[nested] = {**values[nested], draw.choice([*values[nested], "x"]): odd_value(draw)}
            result, words = outcome(lambda kind=kind, given=given: kind.from_json(given).to_json)
        else:
            made = kind.from_json(values)
            arguments = {argument.name: getattr(made, argument.name) for argument in fields(kind)}
            result, words = outcome(lambda kind=kind, given={**arguments, **odd}: kind(**given))
        found[result] += 1
        if result == "raw":
            raw.append(f"{number}: {kind.__name__} {sorted(odd)}: {words}")
    assert not raw, "\n".join(raw[:20])
    assert found["refused"] > found["worked"] > 0
