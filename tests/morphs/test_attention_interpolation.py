"""Attention interpolation of images: ends, constant paths, kept ends, guidance, guide prompts, costs."""

from typing import Any, get_args

import pytest
import torch

from sfumato.attention.interpolate import InterpolationForm
from sfumato.errors import UsageError
from sfumato.morphs import attention_interpolation
from tests.morphs.toy_ends import STEPS, WEIGHTS, drawn, far, path_of, toy_ends

NAME = "attention-interpolation"


@pytest.fixture(params=["toy_model", "toy_velocity_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def test_the_ends_come_back_under_guidance(model: Any) -> None:
    frames = drawn(path_of(model, NAME, guidance_scale=4.0))
    assert far(frames[[0, -1]], toy_ends().latents) < 1e-5
    assert far(frames[1], frames[0]) > 1e-2


@pytest.mark.filterwarnings("ignore:fixed-point inversion did not solve")
@pytest.mark.parametrize("inversion", ["fixed-point", "regularised-ddim", "dpm-encoder", "edit-friendly"])
def test_any_inversion(toy_model: Any, inversion: str) -> None:
    frames = drawn(path_of(toy_model, NAME, inversion=inversion, guidance_scale=3.0))
    assert far(frames[[0, -1]], toy_ends().latents) < 1e-4
    assert frames.isfinite().all()


@pytest.mark.parametrize("kind", get_args(InterpolationForm))
def test_equal_ends_make_one_frame(toy_model: Any, kind: InterpolationForm) -> None:
    frames = drawn(path_of(toy_model, NAME, toy_ends(equal=True), kind=kind), [0.0, 0.2, 0.7, 1.0])
    assert far(frames[1], frames[2]) < 1e-5
    assert torch.equal(frames[0], frames[3])


def test_equal_ends_make_one_frame_on_every_layout(model: Any) -> None:
    frames = drawn(path_of(model, NAME, toy_ends(equal=True)), [0.2, 0.7])
    assert far(frames[0], frames[1]) < 1e-5


@pytest.mark.parametrize("kind", get_args(InterpolationForm))
def test_frames_depend_on_their_weight_alone(toy_model: Any, kind: InterpolationForm) -> None:
    path = path_of(toy_model, NAME, kind=kind, guidance_scale=2.0)
    together = drawn(path)
    for weight, frame in zip(WEIGHTS, together, strict=True):
        assert far(drawn(path, [weight])[0], frame) < 1e-5


def test_ends_too_large_to_keep_are_rows_of_every_draw(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = drawn(path_of(toy_model, NAME, guidance_scale=2.0))
    monkeypatch.setattr(attention_interpolation, "KEPT_AT_MOST", 1)
    before = toy_model.evaluations
    path = path_of(toy_model, NAME, guidance_scale=2.0)
    assert toy_model.evaluations - before == 2 * STEPS
    assert far(drawn(path), kept) < 1e-4


@pytest.mark.parametrize(("guidance_scale", "rows"), [(3.0, 4), (1.0, 2)])
def test_costs_what_the_summary_says(toy_model: Any, guidance_scale: float, rows: int) -> None:
    before = toy_model.evaluations
    path = path_of(toy_model, NAME, guidance_scale=guidance_scale)
    assert toy_model.evaluations - before == 4 * STEPS
    drawn(path)
    assert toy_model.evaluations - before == (4 + rows) * STEPS


def test_options_move_the_frames_and_not_the_ends(toy_model: Any) -> None:
    base = drawn(path_of(toy_model, NAME, guidance_scale=2.0))
    for options in (
        {"kind": "inner"},
        {"warmup_ratio": 1.0},
        {"warmup_ratio": 0.0},
        {"guide_prompt": "a house"},
        {"released": True},
    ):
        frames = drawn(path_of(toy_model, NAME, guidance_scale=2.0, **options))
        assert far(frames[1], base[1]) > 1e-6, options
        assert far(frames[[0, -1]], base[[0, -1]]) < 1e-5, options


def test_mistakes_are_named_before_any_work(toy_model: Any) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match="guide_prompt is empty"):
        path_of(toy_model, NAME, guide_prompt=" ")
    assert toy_model.evaluations == before


def test_nothing_leaks(toy_model: Any) -> None:
    condition, latents = toy_model.encode_prompt("a cat"), torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        before = toy_model.predict(latents, 400, condition)
        drawn(path_of(toy_model, NAME))
        assert torch.equal(toy_model.predict(latents, 400, condition), before)
