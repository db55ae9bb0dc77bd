"""Rows of a method's own: the network sees them as listed, and controls see them as branches."""

from contextlib import contextmanager
from typing import Any

import torch

from sfumato.sampling.layout import Layout
from sfumato.sampling.rows import Row, Rows


def test_each_row_takes_its_branch_and_condition(toy_model: Any) -> None:
    latents = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    condition = toy_model.encode_prompt(["a cat", "a dog"])
    rows = Rows([Row("a", 1, condition[[0]]), Row("b", 0, condition[[1]]), Row("c", 1, condition[[1]])])
    before = toy_model.evaluations
    with torch.no_grad():
        output = rows.predict(toy_model, latents, 400)
        assert toy_model.evaluations - before == 9
        for row, (branch, k) in zip(output, ((1, 0), (0, 1), (1, 1)), strict=True):
            alone = toy_model.predict(latents[branch], 400, condition[[k]].repeat(3))
            assert torch.allclose(row, alone, atol=1e-5)
    assert rows.index("b") == 1


def test_controls_see_rows_as_branches(toy_model: Any) -> None:
    told = []

    class Listener:
        @contextmanager
        def installed(self, model: Any, layout: Layout) -> Any:
            told.append(layout)
            yield self

        def at_step(self, step: Any) -> None:
            told.append(step)

    condition = toy_model.encode_prompt("a cat")
    control = Rows([Row("source", 0, condition), Row("target", 1, condition)]).under(Listener())
    with control.installed(toy_model, Layout(("uncond", "cond"), ("x",), 2, (16, 16))):
        control.at_step("now")  # type: ignore[arg-type]
    assert told == [Layout(("cond",), ("source", "target"), 2, (16, 16)), "now"]
