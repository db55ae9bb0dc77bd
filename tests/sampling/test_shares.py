"""Shares of a run: no strength above 0 is no step at all, and what is rounded to nothing is told."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.sampling.shares import first_step, strength_notes, window_notes
from tests.served import DIFFUSION, on

PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights


@pytest.fixture(scope="module")
def image() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("strength", "steps", "executed"),
    [(0.0, 50, 0), (1e-9, 50, 1), (0.001, 4, 1), (0.6, 1, 1), (0.57, 100, 57), (0.64, 50, 32), (0.5, 5, 2), (1, 7, 7)],
)
def test_a_strength_above_0_runs_at_least_one_step(strength: float, steps: int, executed: int) -> None:
    assert steps - first_step(strength, steps) == executed


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match=r"strength must be in \[0, 1\]"):
        first_step(strength, 10)
    with pytest.raises(UsageError, match="leaves none of 1 step: use more than 0"):
        first_step(0.0, 1, at_least=1)


def test_what_is_less_than_a_step_is_told() -> None:
    assert strength_notes(0.6, 10) == strength_notes(0.0, 1) == ()
    assert strength_notes(0.6, 1) == ("strength=0.6 of 1 step is less than one step: one is run",)
    assert window_notes(4, share=0.25, window=(0.2, 0.3), nothing=0.0, empty=(0.5, 0.5)) == ()
    assert window_notes(3, share=0.2) == (
        "share=0.2 of 3 steps is less than one step, so it does nothing: use 0.334 or more, or more steps",
    )
    assert window_notes(4, window=(0.3, 0.4))[0].startswith("window=(0.3, 0.4) of 4 steps is less than one step")
    assert window_notes(1, rows=2, share=0.5) == ()


@pytest.mark.parametrize("method", [name for name in on(DIFFUSION, METHODS) if "strength" in METHODS[name].parameters])
def test_one_step_is_an_edit_and_not_the_source(toy_model: Any, image: Image.Image, method: str) -> None:
    quick = {"langevin": {"energy": {"stay-near": -0.05}, "num_langevin_steps": 1, "keep": "last"}}.get(method, {})
    for steps, options in ((1, {}), (2, {"strength": 0.001})):
        result = sfumato.edit(
            toy_model, image, method=method, num_inference_steps=steps, **PROMPTS, **quick, **options
        )  # fmt: skip
        assert not np.array_equal(np.asarray(result.image), np.asarray(result.reconstruction))
        whole = options.get("strength", METHODS[method].parameters["strength"].default) == 1.0
        assert whole or any("is less than one step: one is run" in note for note in result.notes)


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("plug-and-play", {"feature_threshold": 0.2, "attention_threshold": 0.15}, 2),
        ("prompt-to-prompt", {"cross_replace_steps": 0.1, "self_replace_steps": 0.4}, 1),
        ("prompt-to-prompt", {"cross_replace_steps": {"dog": 0.1}, "self_replace_steps": 0.1}, 2),
        ("prompt-to-prompt", {"blend_words": ["cat", "dog"], "blend_start": 0.2, "self_replace_steps": 0.5}, 1),
        ("edit-friendly", {"attention_control": "auto", "self_replace_steps": 0.1}, 1),
        ("ilvr", {"hold": 0.2}, 1),
    ],
)
def test_an_option_that_rounds_to_nothing_is_told(
    toy_model: Any, image: Image.Image, method: str, options: dict[str, Any], named: int
) -> None:
    result = sfumato.edit(toy_model, image, method=method, num_inference_steps=3, **PROMPTS, **options)
    told = [note for note in result.notes if "so it does nothing" in note]
    assert len(told) == named
    assert all(note.partition("=")[0].partition("[")[0] in options for note in told)


def test_masactrl_tells_that_no_layout_forms_in_few_steps(toy_model: Any, image: Image.Image) -> None:
    few, given = (
        sfumato.edit(toy_model, image, method="masactrl", num_inference_steps=2, **PROMPTS, **options).notes
        for options in ({}, {"start_step": 0})
    )
    assert any("the source's layout stays: use 13 steps or more" in note for note in few)
    assert not any("layout" in note for note in given)


def test_a_translation_of_one_step_says_so(toy_model: Any, image: Image.Image) -> None:
    result = sfumato.translate(toy_model, toy_model, image, strength=0.3, refine_strength=0.3, num_inference_steps=2)
    assert [note.partition("=")[0] for note in result.notes if "one is run" in note] == ["strength", "refine_strength"]
