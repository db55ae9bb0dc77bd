"""Alpha of an image goes through edits and sliders; where it is not wanted, or cannot be kept, the background shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.api.recipe import Recipe
from sfumato.images import flattened, save_image

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights
PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
BLUE = (0, 0, 255)


@pytest.fixture
def cat() -> Image.Image:
    """70 x 60 pixels: the left third transparent, the middle one half, the right one opaque."""
    values = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize((70, 60), Image.Resampling.BICUBIC)
    alpha = np.zeros((60, 70), np.uint8)
    alpha[:, 24:48], alpha[:, 48:] = 128, 255
    image.putalpha(Image.fromarray(alpha))
    return image


def edit(model: Any, image: Any, **given: Any) -> sfumato.EditResult:
    return sfumato.edit(model, image, **{**PROMPTS, "num_inference_steps": 2, "fit": "pad", **given})


def test_an_edit_of_a_transparent_image_is_transparent(toy_model: Any, cat: Image.Image, tmp_path: Path) -> None:
    clear, opaque = (edit(toy_model, cat, background=BLUE, alpha=alpha) for alpha in (True, False))
    assert (clear.image.mode, opaque.image.mode, clear.source.mode) == ("RGBA", "RGB", "RGB")
    assert clear.image.size == cat.size  # the padding is cut off
    assert clear.image.getchannel("A").tobytes() == cat.getchannel("A").tobytes()
    shown, plain = np.asarray(flattened(clear.image, BLUE), int), np.asarray(opaque.image, int)
    assert np.array_equal(shown[:, 48:], plain[:, 48:])  # to the bit where it is opaque
    assert (shown[:, :24] == BLUE).all()
    with Image.open(clear.save(tmp_path / "dog.png")) as saved, Image.open(clear.save(tmp_path / "dog.jpg")) as flat:
        assert saved.tobytes() == clear.image.tobytes()
        assert np.abs(np.asarray(flat, int)[20:40, 4:18] - BLUE).max() < 40  # JPEG: on the background


def test_of_several_targets_and_candidates(toy_model: Any, cat: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.edits import auto

    monkeypatch.setattr(auto, "TRIES", (auto.Try("sdedit", {}), auto.Try("ddib", {})))
    result = edit(toy_model, cat, method="auto", inversion="ddim")
    assert {image.mode for image in (*result.images, *(tried.image for tried in result.tried))} == {"RGBA"}


def test_an_opaque_image_stays_rgb(toy_model: Any, cat: Image.Image) -> None:
    assert edit(toy_model, cat.convert("RGB")).image.mode == "RGB"
    cat.putalpha(255)
    assert edit(toy_model, cat).image.mode == "RGB"


def test_what_a_mask_keeps_is_the_source_to_the_bit(toy_model: Any, cat: Image.Image) -> None:
    mask = Image.new("L", cat.size, 0)
    mask.paste(255, (0, 0, 70, 30))
    given: dict[str, Any] = {"mask": mask, "mask_pixels": True}
    result = edit(toy_model, cat, **given)
    frames = sfumato.slider(
        toy_model, cat, **PROMPTS, **given, num_inference_steps=2, fit="pad", num_frames=3, distance="pixel"
    ).images
    for image in (result.image, *frames):
        assert np.array_equal(np.asarray(image)[30:], np.asarray(cat)[30:])  # colours under half an alpha, too
    assert not np.array_equal(np.asarray(result.image)[:30], np.asarray(cat)[:30])


def test_frames_of_a_slider(toy_model: Any, cat: Image.Image) -> None:
    given: dict[str, Any] = {**PROMPTS, "num_inference_steps": 2, "fit": "pad", "num_frames": 3, "distance": "pixel"}
    clear, opaque = (sfumato.slider(toy_model, cat, spacing="even", **given, alpha=alpha) for alpha in (True, False))
    assert {frame.mode for frame in clear.images} == {"RGBA"}
    assert {frame.mode for frame in opaque.images} == {"RGB"}
    assert clear.distances == opaque.distances
    assert clear.images[-1].tobytes() == edit(toy_model, cat).image.tobytes()
    assert (clear.recipe["alpha"], opaque.recipe["alpha"]) == (True, False)


def test_recipes_that_know_no_alpha_are_repeated_without(toy_model: Any, cat: Image.Image, tmp_path: Path) -> None:
    result = edit(toy_model, cat)
    recipe = {name: value for name, value in result.recipe.items() if name != "alpha"}
    request = Recipe.read(save_image(result.image, tmp_path / "old.png", recipe=recipe)).request
    assert request.to_json()["alpha"] is False
    assert sfumato.read_request(result.save(tmp_path / "new.png")).to_json()["alpha"] is True
