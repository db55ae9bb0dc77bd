"""Attention between two ends: against attention written out, ends within the run or kept, topologies, leaks."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sfumato.attention.interpolate import BetweenEnds, InterpolatedAttention, InterpolatedSource, InterpolationForm
from sfumato.attention.patch import AttentionControl, AttentionEdit
from sfumato.attention.record import Recorder
from sfumato.models.attention import KernelCall
from sfumato.models.schedules import Level, Step
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample

STEP = Step(0, 1, 1, -1, Level(0.95, 0.31), Level(1.0, 0.0))
LAYOUT = Layout(("uncond", "cond"), ("start", "frame", "end"), 1, (16, 16))
WEIGHTS = [0.0, 0.3, 1.0]


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1) @ value


def attend(model: Any, edit: AttentionEdit, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    site = next(site for site in model.sites((16, 16)) if edit.selects(site))
    control = AttentionControl([edit])
    with control.installed(model, layout):
        control.at_step(STEP)
        return control.attend(KernelCall(site, query, key, value, None, query.shape[-1] ** -0.5))


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(6, 2, 9, 4, generator=generator) for _ in range(3))
    return query, key, value


@pytest.mark.parametrize("kind", get_args(InterpolationForm))
def test_each_kind_is_its_formula(toy_model: Any, kind: InterpolationForm, qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    found = attend(toy_model, InterpolatedAttention(kind, WEIGHTS, 1), *qkv, LAYOUT)
    assert torch.allclose(found[:3], plain(*(tensor[:3] for tensor in qkv)), atol=1e-5)  # unconditional: untouched

    (q, k, v), c = (tensor[4] for tensor in qkv), 0.3
    (k_s, v_s), (k_e, v_e) = ((qkv[1][row], qkv[2][row]) for row in (3, 5))

    def read(keys: Tensor, values: Tensor) -> Tensor:
        if kind.startswith("fused"):
            return plain(q, torch.cat([k, keys], dim=-2), torch.cat([v, values], dim=-2))
        return plain(q, keys, values)

    inner = read((1 - c) * k_s + c * k_e, (1 - c) * v_s + c * v_e)
    outer = (1 - c) * read(k_s, v_s) + c * read(k_e, v_e)
    assert torch.allclose(found[4], inner if kind.endswith("inner") else outer, atol=1e-5)
    for row in (3, 5):  # an end reads itself
        assert torch.allclose(found[row], plain(*(tensor[row] for tensor in qkv)), atol=1e-5)


@pytest.mark.parametrize("kind", get_args(InterpolationForm))
def test_kept_ends_serve_as_those_of_the_run(
    toy_model: Any, kind: InterpolationForm, qkv: tuple[Tensor, Tensor, Tensor]
) -> None:
    kept, cond = Recorder(), Layout(("cond",), ("start", "frame", "end"), 1, (16, 16))
    within = attend(
        toy_model, InterpolatedAttention(kind, WEIGHTS, 1, kept=kept), *(tensor[3:] for tensor in qkv), cond
    )
    assert len(kept) == 4
    frames = Layout(("uncond", "cond"), ("frame",), 1, (16, 16))
    alone = attend(
        toy_model, InterpolatedAttention(kind, [0.3], 1, kept=kept), *(tensor[[1, 4]] for tensor in qkv), frames
    )
    assert torch.allclose(alone[1], within[1], atol=1e-6)
    assert torch.allclose(alone[0], plain(*(tensor[1] for tensor in qkv)), atol=1e-5)


def runs(model: Any, edit: BetweenEnds | None, on_step: Any = ()) -> Tensor:
    condition = model.encode_prompt(["a cat", "a red cat", "a dog"])
    branches = {name: Branch(condition[[k]], None, 3.0) for k, name in enumerate(LAYOUT.branches)}
    noise = torch.randn(3, 1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    controls = [] if edit is None else [AttentionControl([edit])]
    return sample(model, noise, branches, num_inference_steps=3, controls=controls, on_step=on_step)[:, 0]


def decoder(model: Any) -> list[str]:
    return [s.name for s in model.sites((16, 16)) if s.kind == "self" and s.stage == "up"]


@pytest.mark.parametrize("name", ["toy_model", "toy_xl_model"])
def test_ends_run_free_and_frames_do_not(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    free = runs(model, None)
    edits = [InterpolatedAttention(kind, WEIGHTS, 2) for kind in get_args(InterpolationForm)]
    for edit in (*edits, InterpolatedSource(decoder(model), WEIGHTS, 2)):
        found = runs(model, edit)
        assert torch.allclose(found[[0, 2]], free[[0, 2]], atol=1e-4)
        assert not torch.allclose(found[1], free[1], atol=1e-4)


def test_mixed_inputs_are_mixed_keys_and_values(toy_model: Any) -> None:
    """Without adapters, projections being linear; with the frame's own share it goes back to the free run."""

    class MixedKeys(AttentionEdit):
        guidance = ("uncond", "cond")

        def selects(self, site: Any) -> bool:
            return site.name in decoder(toy_model)

        def edit_qkv(self, query: Tensor, key: Tensor, value: Tensor, site: Any, step: Any) -> Any:
            weights = torch.tensor(WEIGHTS).view(1, 3, 1, 1, 1, 1)
            return query, *((1 - weights) * x[:, :1] + weights * x[:, 2:] for x in (key, value))

    by_input = runs(toy_model, InterpolatedSource(decoder(toy_model), WEIGHTS, 3))
    assert torch.allclose(by_input, runs(toy_model, MixedKeys()), atol=1e-4)  # type: ignore[arg-type]
    own = runs(toy_model, InterpolatedSource(decoder(toy_model), WEIGHTS, 3, own_share=1.0))
    assert torch.allclose(own, runs(toy_model, None), atol=1e-4)


def test_it_acts_in_the_first_steps_only(toy_model: Any) -> None:
    free, off = runs(toy_model, None), runs(toy_model, InterpolatedAttention("inner", WEIGHTS, 0))
    assert torch.equal(free, off)
    one, two = (runs(toy_model, InterpolatedAttention("inner", WEIGHTS, steps)) for steps in (1, 2))
    assert not torch.allclose(one[1], two[1], atol=1e-5)


@pytest.mark.parametrize("kind", ["attention", "source"])
def test_nothing_leaks_also_when_a_run_breaks(toy_model: Any, kind: str) -> None:
    def explode(latents: Tensor, step: Any) -> Tensor:
        raise RuntimeError("on purpose")

    condition, latents = toy_model.encode_prompt("a cat"), torch.randn(1, 4, 16, 16)
    edit: BetweenEnds = InterpolatedAttention("fused-outer", WEIGHTS, 3)
    if kind == "source":
        edit = InterpolatedSource(decoder(toy_model), WEIGHTS, 3)
    with torch.no_grad():
        before = toy_model.predict(latents, 400, condition)
        with pytest.raises(RuntimeError, match="on purpose"):
            runs(toy_model, edit, on_step=[explode])
        assert torch.equal(toy_model.predict(latents, 400, condition), before)
