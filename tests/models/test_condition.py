"""Conditions: every named tensor goes the way of the text."""

from typing import Any

import pytest
import torch

from sfumato.conditions.mixing import mixed_condition
from sfumato.errors import UsageError
from sfumato.models.base import Condition


def condition(rows: int, tokens: int = 3, **extras: int) -> Condition:
    """Numbers of their own in each tensor; `extras` gives the width of each."""
    text = torch.arange(float(rows * tokens * 2)).view(rows, tokens, 2)
    widths = {"vector": 4, "number": 0} | extras
    return Condition(
        text,
        {
            name: 100.0 * len(name) + torch.arange(float(rows * max(width, 1))).view([rows, width] if width else [rows])
            for name, width in widths.items()
        },
    )


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda given: given[[1]], [1]),
        (lambda given: given[slice(0, 1)], [0]),
        (lambda given: given.repeat(2), [0, 0, 1, 1]),
        (lambda given: given[[1]].expand(3), [1, 1, 1]),
        (lambda given: Condition.cat([given, given[[0]]]), [0, 1, 0]),
        (lambda given: mixed_condition(given, [1.0, 0.0]), [1, 0]),
    ],
)
def test_rows_of_all_tensors_go_together(change: Any, rows: list[int]) -> None:
    given = condition(2)
    found = change(given)
    assert torch.equal(found.text, given.text[rows])
    assert found.extras.keys() == given.extras.keys()
    for name, tensor in given.extras.items():
        assert torch.equal(found.extras[name], tensor[rows])


def test_the_middle_of_two_is_that_of_each_tensor() -> None:
    given = condition(2)
    middle = mixed_condition(given, [0.5])
    for tensor, between in zip(
        (given.text, *given.extras.values()), (middle.text, *middle.extras.values()), strict=True
    ):
        assert torch.equal(between[0], tensor.mean(dim=0))


def test_equal_conditions_have_equal_tensors_of_equal_names() -> None:
    given = condition(2)
    assert given.equals(condition(2))
    assert not given.equals(given.with_extras({"vector": given.extras["vector"] + 1.0}))
    assert not given.equals(Condition(given.text))
    assert not given.equals(given.with_text(given.text + 1.0))


def test_the_longest_text_decides_and_extras_stay() -> None:
    long, short, empty = condition(2, tokens=6), condition(1), condition(1)
    same, padded = Condition.equally_long([long, short], empty)
    assert same is long
    assert torch.equal(padded.text, torch.cat([short.text, empty.text], dim=1))
    assert padded.with_text(short.text).equals(short)


def test_conditions_of_different_models_are_not_joined() -> None:
    with pytest.raises(
        UsageError, match=r"do not fit one another \(text, vector, number and text, vector, number, more\)"
    ):
        Condition.cat([condition(1), condition(1, more=2)])


def test_a_guidance_scale_is_told_only_to_a_network_that_takes_it(toy_model: Any, monkeypatch: Any) -> None:
    given, scales = toy_model.encode_prompt(["a cat", "a dog"]), torch.tensor([2.0, 3.0])
    assert toy_model.with_guidance(given, scales) is given
    monkeypatch.setattr(toy_model, "takes_guidance", True)
    assert toy_model.with_guidance(given, scales).equals(given.with_extras({"guidance": scales}))
