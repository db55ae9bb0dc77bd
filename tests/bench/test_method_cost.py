"""The script that measures methods beside bare calls, in a small form."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import bare_calls, method_cost
from benchmarks.bare_calls import BareCall, make, noted


def test_a_gradient_is_taken_as_deep_as_the_methods(tiny_model: Any) -> None:
    """Of the output and of the decoder for a gradient of images, of queries for one of attention maps."""
    condition, latents = tiny_model.encode_prompt("a cat"), torch.zeros(1, 4, 8, 8)
    calls: list[BareCall] = []
    with noted(tiny_model, calls):
        with torch.no_grad():
            tiny_model.predict(latents, 500.0, condition)
        leaf = latents.clone().requires_grad_()
        images = tiny_model.decode_latents(tiny_model.predict(leaf, 500.0, condition))
        images.sum().backward()
        found = list[Tensor]()
        inside = partial(bare_calls._queries, tiny_model, BareCall(latents.shape, 500.0, condition, "inside"), found)
        with inside():
            tiny_model.predict(leaf, 500.0, condition)
        found[-1].sum().backward()
    assert [(call.condition is None, call.backward) for call in calls] == [
        (False, None), (False, "output"), (True, "output"), (False, "inside"),
    ]  # fmt: skip
    again: list[BareCall] = []
    with noted(tiny_model, again):
        make(tiny_model, calls)
    assert [(c.shape, c.time, c.backward) for c in again] == [(c.shape, c.time, c.backward) for c in calls]
    assert not {"predict", "decode_latents"} & set(vars(tiny_model))


@pytest.mark.parametrize(
    ("method", "options", "with_backward", "decoded"),
    [
        ("pix2pix-zero", {}, 4, []),
        ("langevin", {"encoder": "emoji-clip", "num_langevin_steps": 1}, 2, ["output", None]),
    ],
)
def test_bare_calls_are_those_of_the_method(
    tiny_model: Any, method: str, options: dict[str, Any], with_backward: int, decoded: list[str | None]
) -> None:
    """2 steps: pix2pix-zero differentiates two rows at each; Langevin decodes once with a gradient, and at the end."""
    start = method_cost.start_of(tiny_model, torch.zeros(1, 4, 8, 8), method, 2)
    calls: list[BareCall] = []
    with noted(tiny_model, calls):
        _, cost = method_cost.run_method(tiny_model, method, start, options)
    assert sum(call.shape[0] for call in calls if call.condition) == cost.evaluations
    assert sum(call.shape[0] for call in calls if call.condition and call.backward) == with_backward
    assert [call.backward for call in calls if call.condition is None] == decoded
