"""Rows that nothing needs are not computed: numbers stay, evaluations fall."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adaptation.lora import Lora, RowAdapters
from sfumato.attention.patch import AttentionControl
from sfumato.edits.masactrl import masactrl
from sfumato.edits.plug_and_play import plug_and_play
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.inversions.result import Inversion
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"
RAGGED = Layout(("uncond", "cond"), ("a", "b", "c"), 2, (4, 4), frozenset({"a", "c"}))
FULL = Layout(("uncond", "cond"), ("a", "b", "c"), 2, (4, 4))


def noise(images: int = 1) -> Tensor:
    return torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(1))


class Reads:
    """A control that does nothing, and asks for all unconditional rows."""

    reads_unconditional = True
    layout: Layout

    @contextmanager
    def installed(self, model: Any, layout: Layout) -> Iterator[None]:
        self.layout = layout
        yield

    def at_step(self, step: Any) -> None:
        pass

    def acts(self, step: Any) -> bool:
        return False


def test_a_view_shows_the_one_row_of_a_branch_in_both_halves() -> None:
    assert RAGGED.cells == (("uncond", "b"), ("cond", "a"), ("cond", "b"), ("cond", "c"))
    rows = torch.arange(8.0)[:, None]  # (row, ...): two images each
    view = RAGGED.view(rows)
    assert view[..., 0].tolist() == [[[2, 3], [0, 1], [6, 7]], [[2, 3], [4, 5], [6, 7]]]
    assert torch.equal(RAGGED.rows(view), rows)


def test_without_such_branches_a_view_is_no_copy() -> None:
    rows = torch.arange(12.0)[:, None]
    assert FULL.view(rows).data_ptr() == rows.data_ptr()
    assert torch.equal(FULL.rows(FULL.view(rows)), rows)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_a_branch_that_is_not_guided_has_one_row(name: str, images: int, request: Any) -> None:
    model = request.getfixturevalue(name)
    condition = model.encode_prompt([SOURCE, TARGET, "a hat", "blue"])
    branches = {
        "first": Branch(condition[[1]], condition[[3]], 3.0),
        "source": Branch(condition[[0]], condition[[3]]),
        "last": Branch(condition[[2]], None, lambda step: 2.0 if step.index == 1 else 1.0),
    }
    results, costs = [], []
    for controls in ([], [Reads()]):
        before = model.evaluations
        results.append(sample(model, noise(images), branches, num_inference_steps=3, controls=controls))
        costs.append(model.evaluations - before)
    assert costs == [(4 + 5 + 4) * images, 3 * 6 * images]
    torch.testing.assert_close(*results, rtol=0.0, atol=1e-4)


def test_embeddings_in_the_empty_prompts_place_stand_in_guided_rows_only(toy_model: Any) -> None:
    condition = toy_model.encode_prompt([SOURCE, TARGET])
    branches = {"source": Branch(condition[[0]]), "target": Branch(condition[[1]], guidance_scale=3.0)}
    embeds = condition.text[[1, 0, 1]][:, None] * 0.5
    replay = Inversion("given", noise(), tuple(toy_model.schedule.timesteps(3)), null_embeds=embeds)
    before = toy_model.evaluations
    results = [
        sample(toy_model, noise(), branches, num_inference_steps=3, replay=replay, controls=controls)
        for controls in ([], [Reads()])
    ]
    assert toy_model.evaluations - before == 3 * 3 + 3 * 4
    torch.testing.assert_close(*results, rtol=0.0, atol=1e-4)


def test_prompts_are_padded_to_embeddings_of_more_chunks(toy_model: Any) -> None:
    """As tuned under a longer prompt: the run is that of conditions which are as long."""
    condition, empty = toy_model.encode_prompt(TARGET), toy_model.encode_prompt("")
    longer = condition.padded(2 * empty.tokens, empty)
    replay = Inversion("given", noise(), tuple(toy_model.schedule.timesteps(1)), null_embeds=0.5 * longer.text[None])
    results = [
        sample(toy_model, noise(), {"target": Branch(one, guidance_scale=3.0)}, num_inference_steps=1, replay=replay)
        for one in (condition, longer)
    ]
    assert torch.equal(*results)


def test_equal_conditions_are_one_row_even_where_others_look(toy_model: Any) -> None:
    condition = toy_model.encode_prompt(["", TARGET])
    target, control = Branch(condition[[1]], guidance_scale=3.0), Reads()
    for source, single in ((condition[[0]], {"source"}), (condition[[1]], set())):
        branches = {"source": Branch(source), "target": target}
        sample(toy_model, noise(), branches, num_inference_steps=1, controls=[control])
        assert control.layout.single == single


def edited(model: Any, edit: Any, **options: Any) -> tuple[Tensor, int]:
    start, before = Inversion("drawn", noise(), tuple(model.schedule.timesteps(4))), model.evaluations
    done = edit_by(
        edit, model, start, target_prompts=[TARGET], guidance_scale=3.0, source_guidance_scale=1.0, **options
    )
    return done.latents, model.evaluations - before


@pytest.mark.parametrize(
    ("edit", "options"),
    [
        (prompt_to_prompt, {"source_prompt": SOURCE, "blend_words": ["cat", "dog"]}),
        (masactrl, {"source_prompt": "", "start_step": 0}),
        (plug_and_play, {"source_prompt": ""}),
    ],
)
def test_edits_beside_an_unguided_source_pay_three_rows(
    edit: Any, options: Any, toy_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, cost = edited(toy_model, edit, **options)
    assert cost == 4 * 3
    monkeypatch.setattr(AttentionControl, "reads_unconditional", True)
    monkeypatch.setattr("sfumato.models.base.Condition.equals", lambda *_: False)
    whole, cost = edited(toy_model, edit, **options)
    assert cost == 4 * 4
    torch.testing.assert_close(latents, whole, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("edit", [masactrl, plug_and_play])
def test_a_row_that_others_read_is_computed(edit: Any, toy_model: Any) -> None:
    """The unconditional half of the target looks into the source's: another prompt, another row."""
    options = {"start_step": 0} if edit is masactrl else {}
    assert edited(toy_model, edit, source_prompt=SOURCE, **options)[1] == 4 * 4


def test_adapters_find_their_rows(toy_model: Any) -> None:
    def lora(seed: int) -> Lora:
        generator = torch.Generator().manual_seed(seed)
        return Lora(
            {
                name: (
                    0.1 * torch.randn(2, inner, generator=generator),
                    0.1 * torch.randn(outer, 2, generator=generator),
                )
                for name, (inner, outer) in toy_model.attention_projections().items()
            }
        )

    condition = toy_model.encode_prompt([SOURCE, TARGET])
    branches = {"source": Branch(condition[[0]]), "target": Branch(condition[[1]], guidance_scale=3.0)}
    adapters = RowAdapters({"uncond": [None, lora(1)], "cond": [lora(2), lora(3)]})
    results = [
        sample(toy_model, noise(), branches, num_inference_steps=2, controls=[adapters, *more])
        for more in ([], [Reads()])
    ]
    torch.testing.assert_close(*results, rtol=0.0, atol=1e-4)
