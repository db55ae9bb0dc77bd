"""The boundary of the public verbs: every argument has a check, and what does not fit is refused before any work."""

import inspect
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.api.arguments import ARGUMENTS
from sfumato.api.request import Request
from sfumato.api.requests import (
    EditRequest,
    GenerateRequest,
    InvertRequest,
    MorphRequest,
    SliderRequest,
    TranslateRequest,
)
from sfumato.errors import UsageError

VERBS = (sfumato.edit, sfumato.morph, sfumato.generate, sfumato.invert, sfumato.slider, sfumato.translate)
REQUESTS = (EditRequest, MorphRequest, GenerateRequest, InvertRequest, SliderRequest, TranslateRequest)
# checked where they are read: an image or a mask by its reader, ranges beside their options
READ_ELSEWHERE = {"image", "mask", "vary"}
# no part of what is asked for
BESIDES = {"model", "model_a", "model_b", "watch"}
GIVEN = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog", "num_inference_steps": 2}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.radial_gradient("L").resize((16, 16)).convert("RGB")


@pytest.mark.parametrize(
    ("verb", "request_type"), list(zip(VERBS, REQUESTS, strict=True)), ids=lambda part: part.__name__
)
def test_a_request_has_the_arguments_of_its_verb_and_their_defaults(verb: Any, request_type: type[Request]) -> None:
    parameters = {name: p for name, p in inspect.signature(verb).parameters.items() if name not in BESIDES}
    arguments = {argument.name: argument for argument in fields(request_type)}
    assert parameters.keys() == arguments.keys()
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "target_prompt":
            default = arguments[name].default
            assert default == (MISSING if parameter.default is inspect.Parameter.empty else parameter.default), name


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_argument_has_a_check(request_type: type[Request]) -> None:
    names = {argument.name for argument in fields(request_type)}
    assert names - READ_ELSEWHERE <= {*ARGUMENTS, *request_type.own_checks}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2**64}, "seed must be a whole number in"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": "3"}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number of at least 1, got 2.5"),
        ({"num_inference_steps": "4"}, "num_inference_steps must be a whole number"),
        ({"guidance_scale": "7"}, r"guidance_scale must be a number in \[1, 100\], got '7'"),
        ({"guidance_scale": float("nan")}, r"guidance_scale must be in \[1, 100\], got nan"),
        ({"guidance_scale": 10**400}, r"guidance_scale must be in \[1, 100\], got a whole number of 401 digits"),
        ({"source_guidance_scale": True}, "source_guidance_scale must be a number"),
        ({"inversion": 5}, "inversion must be text"),
        ({"source_prompt": None}, "source_prompt must be text"),
        ({"target_prompt": 3}, "target_prompt must be a list"),
        ({"target_prompt": [["a"]]}, "target_prompt must be text"),
        ({"target_prompt": []}, "target_prompt is empty"),
        ({"target_prompt": ["a dog"] * 101}, "target_prompt must have 0 to 100 entries"),
        ({"negative_prompt": "\ud800"}, "negative_prompt holds half a character"),
        ({"inverted": 5}, r"inverted must be an Inversion \(from sfumato.invert, or Inversion.load\), got 5"),
        ({"inversion_options": [1]}, "inversion_options must be a table of name=value"),
        ({"mask_pixels": 1}, "mask_pixels must be True or False"),
        ({"mask_threshold": float("nan")}, r"mask_threshold must be in \(0, 1\), got nan"),
        ({"fit": 5}, "fit must be one of crop, pad, resize, got 5"),
        ({"watch": print}, "watch must be a sfumato.Watch"),
        ({"watch": sfumato.Watch(progress=5)}, "watch.progress must be a function"),  # type: ignore[arg-type]
        ({"tatget_prompt": "a dog"}, "unknown option 'tatget_prompt'"),
    ],
    ids=str,
)
def test_edit_names_what_does_not_fit(change: Any, message: str, toy_model: Any, image: Image.Image) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        sfumato.edit(toy_model, image, **(GIVEN | change))
    assert toy_model.evaluations == before


def test_calls_that_do_not_fit_a_signature(toy_model: Any, image: Image.Image) -> None:
    with pytest.raises(UsageError, match="unknown argument 'promt' of generate: did you mean 'prompt'"):
        sfumato.generate(toy_model, promt="a cat")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"edit: missing a required"):
        sfumato.edit(toy_model, image)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"model must be a model from sfumato.load_model, got 'emoji'"):
        sfumato.edit("emoji", image, **GIVEN)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"at least two images, got 0|at least two images, got 0"):
        sfumato.morph(toy_model)


def test_numbers_of_numpy_are_taken_and_recorded_as_pythons(toy_model: Any, image: Image.Image, tmp_path: Path) -> None:
    plain = sfumato.edit(toy_model, image, **GIVEN, method="sdedit", guidance_scale=3.0, seed=5, strength=0.5)
    given: Any = {"guidance_scale": np.float32(3), "seed": np.int64(5), "strength": np.float32(0.5)}
    odd = sfumato.edit(toy_model, image, **GIVEN, method="sdedit", **given)
    assert odd.image.tobytes() == plain.image.tobytes()
    assert odd.recipe == plain.recipe
    odd.save(tmp_path / "out.png")
    with pytest.raises(UsageError, match="path must be a path"):
        odd.save(5)  # type: ignore[arg-type]


def test_a_random_seed_is_drawn_and_recorded(toy_model: Any) -> None:
    seeds = [sfumato.generate(toy_model, "a cat", num_inference_steps=1, seed=-1).recipe["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0
    request = GenerateRequest(prompt="a cat", seed=-1)
    assert request.seed == replace(request, eta=0.5).seed >= 0  # drawn when the request is made, and once
