"""DiffMorpher: ends, constant paths, adapters, attention, kept ends, training, leaks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adaptation.store import Store
from sfumato.errors import Cancelled
from sfumato.morphs import diffmorpher
from sfumato.morphs.diffmorpher import adaptive_normalisation
from sfumato.watch import Watch
from tests.morphs.toy_ends import STEPS, WEIGHTS, drawn, far, path_of, toy_ends

NAME = "diffmorpher"
QUICK = {"lora_steps": 2, "lora_rate": 1e-2, "lora_rank": 2}


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_runs_on_every_layout(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    frames = drawn(path_of(model, NAME, **QUICK))
    assert far(frames[1], frames[0]) > 1e-2
    assert far(frames[[0, -1]], drawn(path_of(model, NAME, attention_share=0.0, **QUICK))[[0, -1]]) < 1e-4


def test_equal_ends_make_one_frame(toy_model: Any) -> None:
    """Also under trained adapters: both see the same draws."""
    frames = drawn(path_of(toy_model, NAME, toy_ends(equal=True), **QUICK))
    assert far(frames, frames[:1].expand_as(frames)) < 1e-3


def test_without_training_attention_and_adain_it_is_slerp(toy_model: Any) -> None:
    frames = drawn(path_of(toy_model, NAME, lora_steps=0, attention_share=0.0, adain=False))
    assert far(frames, drawn(path_of(toy_model, "slerp"))) < 1e-5


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_frames_depend_on_their_weight_alone(toy_model: Any, guidance_scale: float) -> None:
    path = path_of(toy_model, NAME, guidance_scale=guidance_scale, **QUICK)
    together = drawn(path)
    for weight, frame in zip(WEIGHTS, together, strict=True):
        assert far(drawn(path, [weight])[0], frame) < 1e-5


def test_ends_too_large_to_keep_are_rows_of_every_draw(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = drawn(path_of(toy_model, NAME, **QUICK))
    monkeypatch.setattr(diffmorpher, "KEPT_AT_MOST", 1)
    assert far(drawn(path_of(toy_model, NAME, **QUICK)), kept) < 1e-4


def test_options_move_the_frames(toy_model: Any) -> None:
    base = drawn(path_of(toy_model, NAME, **QUICK), [0.3])
    for options in (
        {"attention_share": 0.0},
        {"own_attention": 0.5},
        {"adain": False},
        {"lora_weight": 0.5},
        {"released": True},  # 30 of 4 steps: all of them
        {"lora_steps": 0},
    ):
        assert far(drawn(path_of(toy_model, NAME, **(QUICK | options)), [0.3]), base) > 1e-6, options


def test_the_share_is_of_the_steps_run(toy_model: Any) -> None:
    def frame(**options: Any) -> Tensor:
        return drawn(path_of(toy_model, NAME, **QUICK, **options), [0.3])

    half = frame(attention_share=0.5)
    assert torch.equal(half, frame(attention_share=0.45))  # 1.8 of 4: 2 steps
    assert far(half, frame(attention_share=0.2)) > 1e-6
    fifty = frame(attention_share=0.04, released=True)
    assert torch.equal(half, fifty)


def test_adain_gives_moments_between() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 4, 16, 16, generator=generator) * (1 + k) + k for k in (0, 1))
    found = adaptive_normalisation(torch.randn(1, 4, 16, 16), first, second, 0.25)
    mean = 0.75 * first.mean((-2, -1)) + 0.25 * second.mean((-2, -1))
    std = 0.75 * first.std((-2, -1)) + 0.25 * second.std((-2, -1))
    assert torch.allclose(found.mean((-2, -1)), mean, atol=1e-3)
    assert torch.allclose(found.std((-2, -1)), std, rtol=1e-2)
    assert far(adaptive_normalisation(first, first, second, 0.0), first) < 3e-3


def test_adapters_are_trained_once_for_a_store(toy_model: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = toy_model.evaluations
    first = drawn(path_of(toy_model, NAME, store=store, **QUICK))
    cost = toy_model.evaluations - before
    again = drawn(path_of(toy_model, NAME, store=store, **QUICK))
    assert torch.equal(first, again)
    assert toy_model.evaluations - before == 2 * cost - 2 * 2


def test_costs_what_the_summary_says(toy_model: Any) -> None:
    before = toy_model.evaluations
    path = path_of(toy_model, NAME, **QUICK)
    assert toy_model.evaluations - before == 2 * 2 + 4 * STEPS
    drawn(path)
    assert toy_model.evaluations - before == 2 * 2 + (4 + 2) * STEPS


def test_a_rank_that_the_layers_do_not_allow_is_said(toy_model: Any) -> None:
    path = path_of(toy_model, NAME, lora_steps=0, lora_rank=64)
    assert path.record == {"lora_rank": 16}
    assert "rank 16, not 64" in path.notes[0]


@pytest.mark.parametrize("stage", ["training adapters", "inverting"])
def test_nothing_leaks_when_it_is_cancelled(toy_model: Any, stage: str) -> None:
    condition, latents = toy_model.encode_prompt("a cat"), torch.randn(1, 4, 16, 16)
    stages: list[str] = []
    watch = Watch(progress=lambda progress: stages.append(progress.stage), cancelled=lambda: stages[-1:] == [stage])
    with torch.no_grad():
        before = toy_model.predict(latents, 400, condition)
        with pytest.raises(Cancelled):
            path_of(toy_model, NAME, watch=watch, **QUICK)
        assert torch.equal(toy_model.predict(latents, 400, condition), before)
