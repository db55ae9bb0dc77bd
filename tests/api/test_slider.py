"""Sliders: the ends are the source and the full edit, every frame is the edit that its weight says."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.api import edit_run
from sfumato.api.requests import EditRequest
from sfumato.conditions.mixing import PromptMix
from sfumato.errors import UsageError
from sfumato.images import to_pixels
from sfumato.metrics.distance import PixelDistance

CAT, DOG, RED = "a photo of a cat", "a photo of a dog", "a photo of a red cat"


@pytest.fixture
def cat() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC)


def slide(model: Any, image: Any, source: str = CAT, target: str | None = DOG, **given: Any) -> sfumato.MorphResult:
    fixed = {"num_frames": 4, "num_inference_steps": 3, "distance": "pixel", "spacing": "even"}
    return sfumato.slider(model, image, source_prompt=source, target_prompt=target, **{**fixed, **given})


def edited(model: Any, image: Any, source: str = CAT, target: str = DOG, **given: Any) -> sfumato.EditResult:
    return sfumato.edit(model, image, source_prompt=source, target_prompt=target, num_inference_steps=3, **given)


def same(first: Image.Image, second: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(first), np.asarray(second)))


def far(first: Image.Image, second: Image.Image) -> float:
    return float(PixelDistance()(to_pixels(first), to_pixels(second)))


@pytest.mark.parametrize("method", ["prompt-to-prompt", "masactrl", "sdedit", "edit-friendly"])
def test_from_the_source_to_the_full_edit(toy_model: Any, cat: Image.Image, method: str) -> None:
    result, full = slide(toy_model, cat, method=method), edited(toy_model, cat, method=method)
    assert same(result.images[0], full.reconstruction)
    assert same(result.images[-1], full.image)
    assert len(result.images) == 4
    assert far(result.images[1], full.image) > 0
    assert result.endpoint_psnr == (full.reconstruction_psnr,)
    assert result.recipe["command"] == "slider"


def test_under_a_mask_every_frame_keeps_the_image_outside(toy_model: Any, cat: Image.Image) -> None:
    mask = Image.new("L", cat.size, 0)
    mask.paste(255, (0, 0, 32, 64))
    result = slide(toy_model, cat, mask=mask, mask_pixels=True)
    for frame in result.images:
        assert np.array_equal(np.asarray(frame)[:, 32:], np.asarray(cat)[:, 32:])
    assert not same(result.images[0], result.images[-1])


@pytest.mark.parametrize(("target", "share"), [(DOG, 0.02), ("a photo of a house", 0.02), (RED, 0.05), ("a cat", 0.1)])
def test_a_little_of_an_edit_is_almost_the_source(toy_model: Any, cat: Image.Image, target: str, share: float) -> None:
    # weight 0 is the source branch by definition; that the way there has no jump is seen close to it
    full = edited(toy_model, cat, target=target, inversion="ddim")
    request = EditRequest(
        image=cat, source_prompt=CAT, target_prompt=target, inverted=full.inversion, guidance_scale=1.001
    )
    little = edit_run.run(toy_model, request, mix=PromptMix.between(toy_model, CAT, target).at(1e-3))
    whole = far(full.reconstruction, full.image)
    assert far(full.reconstruction, little.image) < share * whole


def test_the_picture_is_inverted_once(toy_model: Any, cat: Image.Image) -> None:
    full = edited(toy_model, cat)
    again = edited(toy_model, cat, inverted=full.inversion)
    result = slide(toy_model, cat)
    assert result.cost.evaluations == full.cost.evaluations + 2 * again.cost.evaluations


def test_weights_of_words(toy_model: Any, cat: Image.Image) -> None:
    result = slide(toy_model, cat, RED, None, vary={"weights": {"red": (0.0, 2.0)}}, weights={"cat": 1.5}, num_frames=3)
    for image, weight in zip(result.images, (0.0, 1.0, 2.0), strict=True):
        full = edited(toy_model, cat, RED, RED, weights={"red": weight, "cat": 1.5})
        assert same(image, full.image), weight
    assert result.recipe["vary"] == {"weights": {"red": [0.0, 2.0]}}


def test_any_number_of_the_method(toy_model: Any, cat: Image.Image) -> None:
    result = slide(toy_model, cat, vary={"guidance_scale": (1, 3), "cross_replace_steps": (0.9, 0.1)}, num_frames=3)
    for image, guidance, steps in zip(result.images, (1.0, 2.0, 3.0), (0.9, 0.5, 0.1), strict=True):
        assert same(image, edited(toy_model, cat, guidance_scale=guidance, cross_replace_steps=steps).image)


def test_a_direction_goes_by_its_scale(toy_model: Any, cat: Image.Image) -> None:
    result = slide(toy_model, cat, method="pix2pix-zero", num_frames=3)
    assert result.recipe["vary"] == {"direction_scale": [0.0, 1.0]}
    half = edited(toy_model, cat, method="pix2pix-zero", direction_scale=0.5)
    assert same(result.images[1], half.image)


def test_of_a_drawn_picture(toy_model: Any) -> None:
    result = slide(toy_model, None, seed=3)
    full = edited(toy_model, None, seed=3)
    assert same(result.images[0], full.reconstruction)
    assert same(result.images[-1], full.image)


def test_evenly_spaced_to_the_eye(toy_model: Any, cat: Image.Image) -> None:
    even, uniform = (slide(toy_model, cat, num_frames=5, spacing=name) for name in ("even", "uniform"))
    assert uniform.spread < even.spread
    assert uniform.even_distances == pytest.approx(even.distances)


def test_the_model_is_left_as_it_was(toy_model: Any, cat: Image.Image) -> None:
    before = toy_model.encode_prompt(DOG).text
    slide(toy_model, cat, num_frames=3)
    assert torch.equal(toy_model.encode_prompt(DOG).text, before)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"target": None}, "needs a target prompt that differs from the source prompt, or options to vary"),
        ({"method": "auto"}, "auto chooses anew for every frame"),
        ({"vary": {}}, "vary is empty: name an option"),
        ({"vary": {"self_replace_step": (0, 1)}}, "unknown option 'self_replace_step'.*'self_replace_steps'"),
        ({"vary": {"self_replace_steps": (0, 2)}}, r"self_replace_steps must be in \[0, 1\], got 2"),
        ({"vary": {"self_replace_size": (4, 8)}}, "self_replace_size must be whole number, got 4.0"),
        ({"vary": {"weights": {"dog": (0, 1, 2)}}}, r"vary takes \(low, high\) of weights, got \(0, 1, 2\)"),
        ({"vary": {"weights": (0, 1)}}, "weights must be table"),
        ({"vary": {"guidance_scale": (0, 3)}}, r"guidance_scale must be in \[1, 100\]"),
        ({"spacing": "unifrom"}, "did you mean 'uniform'"),
        ({"num_frames": 2}, "num_frames must be at least 3"),
    ],
)
def test_bad_arguments(toy_model: Any, cat: Image.Image, given: dict[str, Any], says: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=says):
        slide(toy_model, cat, **given)
    assert toy_model.evaluations == before
