"""Every verb with prompts reads weights as weights, refuses what it cannot say, and notes what it read otherwise."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.conditions.mixing import PromptMix
from sfumato.errors import UsageError

LORA = "a cat <lora:fluffy:0.8>"
Verb = Callable[[Any, str], Any]


def picture() -> Image.Image:
    """32 x 32 pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def generated(model: Any, prompt: str) -> Any:
    return sfumato.generate(model, prompt, num_inference_steps=1, size=(32, 32)).image


def inverted(model: Any, prompt: str) -> Any:
    return sfumato.invert(model, picture(), prompt=prompt, num_inference_steps=2).inversion.noise


def edited(model: Any, prompt: str) -> Any:
    arguments: dict[str, Any] = {"num_inference_steps": 2, "source_prompt": "a photo", "strength": 1.0}
    return sfumato.edit(model, picture(), target_prompt=prompt, method="sdedit", **arguments).image


def avoided(model: Any, prompt: str) -> Any:
    arguments: dict[str, Any] = {"num_inference_steps": 1, "size": (32, 32), "guidance_scale": 5.0}
    return sfumato.generate(model, "a dog", negative_prompt=prompt, **arguments).image


def morphed(model: Any, prompt: str) -> Any:
    ends = [picture(), picture().rotate(90)]
    return sfumato.morph(
        model, *ends, prompts=prompt, method="slerp", num_frames=3, num_inference_steps=2, spacing="even",
        encode_steps=0, distance="pixel", store=False,
    ).images[1]  # fmt: skip


VERBS = [generated, inverted, edited, avoided, morphed]


@pytest.mark.parametrize("verb", VERBS)
def test_weights_change_the_result_and_weight_one_does_not(toy_model: Any, verb: Verb) -> None:
    plain, one, more = (np.asarray(verb(toy_model, prompt)) for prompt in ("a cat", "a (cat:1.0)", "a (cat:5)"))
    assert np.array_equal(plain, one)
    assert not np.array_equal(plain, more)


@pytest.mark.parametrize("verb", VERBS)
def test_a_lora_in_a_prompt_is_refused_before_any_work(toy_model: Any, verb: Verb) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=re.escape("--lora FILE[:SCALE]")):
        verb(toy_model, LORA)
    assert toy_model.evaluations == before


def test_bare_brackets_are_noted_in_the_result(toy_model: Any) -> None:
    with pytest.warns(UserWarning, match=r"prompt: brackets are read as weights"):
        result = sfumato.generate(toy_model, "Paris (France)", num_inference_steps=1, size=(32, 32))
    assert any("brackets" in note for note in result.notes)
    with pytest.warns(UserWarning, match=r"target_prompt: '\|' is read as a character"):
        edit = sfumato.edit(
            toy_model, source_prompt="a cat", target_prompt="a cat | a dog", num_inference_steps=1, size=(32, 32),
            method="sdedit", strength=0.0,
        )  # fmt: skip
    assert any(note.startswith("target_prompt: '|'") for note in edit.notes)


def test_a_slider_gives_the_targets_words_the_weights_that_it_is_asked_for(toy_model: Any) -> None:
    source, target = "a photo of a cat", "a photo of a (dog:1.8)"
    way, empty = PromptMix.between(toy_model, source, target), toy_model.encode_prompt("")
    for asked in (target, "a photo of a dog"):  # as written, and where the weight is on attention
        end = toy_model.encode_prompt(asked)
        whole, half = (way.at(weight).apply(end, empty).text for weight in (1.0, 0.5))
        end = end.text
        assert torch.allclose(whole, end, atol=1e-5)
        assert not torch.allclose(half, end, atol=1e-3)
