"""Requests: JSON both ways, checked by the table of arguments; recipes of earlier versions are read as they are."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.api.origin import Origin
from sfumato.api.recipe import REQUESTS, Recipe
from sfumato.api.request import Request
from sfumato.api.requests import (
    EditRequest,
    GenerateRequest,
    InvertRequest,
    MorphRequest,
    SliderRequest,
    TranslateRequest,
)
from sfumato.errors import ImageError, InversionError, UsageError
from sfumato.images import save_image
from sfumato.json_input import read_json
from sfumato.models.flow_reading import read_as_flow

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights
RECIPES = sorted((Path(__file__).parent / "recipes").iterdir())
EDIT: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the images that the recipes were made of."""
    monkeypatch.chdir(tmp_path)
    picture(0).save("cat.png")
    picture(1).save("dog.png")
    picture(0, (70, 60)).save("odd.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save("mask.png")
    return tmp_path


def examples() -> list[Request]:
    inverted = Origin("cat.safetensors", "ab" * 32)
    masked: dict[str, Any] = {"mask": "mask.png", "mask_invert": True, "mask_feather": 4, "mask_pixels": True}
    return [
        EditRequest(image="cat.png", **EDIT, **masked, method="sdedit", options={"strength": 0.5}, seed=-1),
        EditRequest(image="odd.png", **EDIT, mask_words=["cat"], mask_threshold=0.7, fit="pad", background=(0, 0, 9)),
        EditRequest(**EDIT, inverted=inverted, inversion="ddim", inversion_options={}, options={"weights": {"dog": 2}}),
        EditRequest(**{**EDIT, "target_prompt": ["a dog", "a red cat"]}, size=(64, 64), guidance_scale=3),
        MorphRequest(images=["cat.png", picture(3)], prompts=["a", "b"], method="slerp", distance="pixel"),
        SliderRequest(image="cat.png", **EDIT, vary={"weights": {"dog": (0, 2)}, "guidance_scale": (1, 3)}),
        SliderRequest(source_prompt="a cat", method="pix2pix-zero"),
        InvertRequest(image="cat.png", prompt="a cat", method="null-text", options={"inner_steps": 3}),
        GenerateRequest(prompt="a cat", num_images=3, sampler="ddim", eta=0.5, size=(32, 64)),
        TranslateRequest(image="cat.png", method="ddib", strength=0.5),
    ]


@pytest.mark.parametrize("number", range(10))
def test_json_says_all_of_a_request(number: int, folder: Path) -> None:
    request = examples()[number]
    said = request.to_json()
    again = type(request).from_json(read_json(json.dumps(said)))
    assert again.to_json() == said
    files = ("image", "images", "mask", "inverted")
    for name in {argument.name for argument in fields(request)} - {*files}:
        assert getattr(again, name) == getattr(request, name), name


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_of_earlier_versions_are_read(file: Path, folder: Path) -> None:
    values = json.loads(file.read_text())
    carrier = save_image(picture(0), folder / "out.png", recipe=values)
    recipe = Recipe.read(carrier)
    assert type(recipe.request) is REQUESTS[values["command"]]
    assert recipe.unknown == ()
    said, names = recipe.request.to_json(), set(recipe.facts)
    for name in values.keys() - names:
        if name == "mask" and values[name] is not None:
            assert said[name] == said[name] | values[name]
        else:
            assert said[name] == values[name], name


def _run(file: str, toy_model: Any) -> Any:
    values = json.loads((Path(__file__).parent / "recipes" / f"{file}.json").read_text())
    carrier = save_image(picture(0), "carrier.png", recipe=values)
    request: Any = Recipe.read(carrier).request
    return request.run(toy_model), values


@pytest.mark.parametrize("file", ["edit", "edit-masked", "edit-fitted", "edit-drawn", "morph", "slider", "invert"])
def test_recipes_of_earlier_versions_run_again_and_say_the_same(file: str, folder: Path, toy_model: Any) -> None:
    result, then = _run(file, toy_model)
    for name in then.keys() - {"image", "images", "mask"}:  # whose hashes are of the pixels as they are read, now
        assert result.recipe[name] == then[name], name
    assert not [note for note in result.notes if "changed" in note]


def test_what_a_result_carries_is_its_request(folder: Path, toy_model: Any) -> None:
    request = EditRequest(image="odd.png", **EDIT, fit="pad", mask_words="cat", num_inference_steps=2, seed=-1)
    result = request.run(toy_model)
    recipe = Recipe.read(result.save("out.png"))
    again = recipe.request.to_json()
    assert again == {name: result.recipe[name] for name in again}
    assert (again["seed"], again["guidance_scale"]) == (request.seed, toy_model.guidance_scale)
    request = sfumato.read_request("out.png")
    assert isinstance(request, EditRequest)
    assert request.run(toy_model).image.tobytes() == result.image.tobytes()


def test_a_file_must_hold_what_it_held(folder: Path, toy_model: Any) -> None:
    said = EditRequest(image="cat.png", **EDIT, num_inference_steps=2, mask="mask.png").to_json()
    assert said["image"] == {"path": "cat.png", "sha256": Origin.from_json("image", said["image"]).sha256}
    picture(5).save("cat.png")
    with pytest.raises(ImageError, match=r"cat.png is not the image that was used then: its content has changed"):
        EditRequest.from_json(said).run(toy_model)
    given = replace(EditRequest.from_json(said), image="cat.png", mask=Origin("mask.png", "0" * 64), method="ddib")
    assert "the mask mask.png has changed since" in " ".join(given.run(toy_model).notes)
    with pytest.raises(ImageError, match="the image that was used then was not a file: give it"):
        replace(given, image=Origin(None, "0" * 64)).run(toy_model)


def test_an_inversion_must_be_the_same(folder: Path, toy_model: Any) -> None:
    found = sfumato.invert(toy_model, "cat.png", num_inference_steps=2).inversion
    found.save("cat.safetensors")
    request = EditRequest(**EDIT, method="ddib", inverted=sfumato.Inversion.load("cat.safetensors"))
    said = request.to_json()
    assert said["inverted"] == {"path": "cat.safetensors", "sha256": found.fingerprint}
    assert EditRequest.from_json(said).run(toy_model).image.tobytes() == request.run(toy_model).image.tobytes()
    said["inverted"]["sha256"] = "0" * 64
    with pytest.raises(InversionError, match=r"cat.safetensors is not the inversion that was used then"):
        EditRequest.from_json(said).run(toy_model)
    said["inverted"]["path"] = None
    with pytest.raises(InversionError, match=r"was not a file \(see Inversion.save\): give it"):
        EditRequest.from_json(said).run(toy_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 3}, r"the request holds 'sed', which this version does not know \(did you mean 'seed'\?\)"),
        ({"seed": "3"}, "seed must be a whole number"),
        ({"command": "morph"}, "command must be one of edit, got 'morph'"),
        ({"guidance_scale": 0.5}, r"guidance_scale must be in \[1, 100\], got 0.5"),
        ({"method": "sdedid"}, "unknown method 'sdedid': did you mean 'sdedit'"),
        ({"options": {"strenght": 1}}, "unknown option 'strenght' of sdedit: did you mean 'strength'"),
        ({"options": {"strength": 2}}, r"strength must be in \[0, 1\], got 2"),
        ({"inversion": "ddim", "inversion_options": {"x": 1}}, "unknown option 'x' of ddim"),
        ({"image": "cat.png"}, "image must be a table"),
        ({"image": {"path": "cat.png", "url": "x"}}, "image has path and sha256, got 'url'"),
        ({"mask": {"path": "m.png", "soft": 1}}, "mask holds 'soft': it has path, sha256, words, threshold"),
        ({"mask": {"words": ["cat"], "threshold": 2}}, r"mask.threshold must be in \(0, 1\), got 2"),
        ({"target_prompts": "a dog"}, "target_prompts must be a list"),
        ({"source_prompt": " "}, "source_prompt is empty"),
    ],
    ids=str,
)
def test_json_is_held_to_the_checks_of_arguments(change: dict[str, Any], message: str) -> None:
    said = {"source_prompt": "a cat", "target_prompts": ["a dog"], "method": "sdedit"}
    assert EditRequest.from_json(said).targets == ("a dog",)
    with pytest.raises(UsageError, match=message) as caught:
        EditRequest.from_json({**said, **change})
    assert "\n" not in str(caught.value)


def test_what_has_no_default_must_be_said() -> None:
    with pytest.raises(UsageError, match="target_prompts is missing"):
        EditRequest.from_json({"source_prompt": "a cat"})
    with pytest.raises(ImageError, match=r"row 3 is damaged \(prompt is missing\): mend the table"):
        GenerateRequest.from_json({}, what="row 3", remedy="mend the table", error=ImageError)
    with pytest.raises(UsageError, match="no object with names"):
        MorphRequest.from_json([])


def test_a_request_is_checked_when_it_is_made() -> None:
    with pytest.raises(UsageError, match="a morph needs at least two images, got 1"):
        MorphRequest(images=["cat.png"])
    with pytest.raises(UsageError, match="unknown distance 'lpipz'"):
        MorphRequest(images=["cat.png", "dog.png"], distance="lpipz")
    with pytest.raises(UsageError, match="prompts must be one for all or one for each of 2 images, got 3"):
        MorphRequest(images=["cat.png", "dog.png"], prompts=["a", "b", "c"])
    with pytest.raises(UsageError, match="ddib draws no noise"):
        TranslateRequest(image="cat.png", method="ddib", eta=0.5)
    with pytest.raises(UsageError, match=r"vary takes \(low, high\) of strength"):
        SliderRequest(**EDIT, method="sdedit", vary={"strength": 3})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="a slider has one target prompt, got 2"):
        SliderRequest(source_prompt="a cat", target_prompt=["a dog", "a hat"])


def test_a_request_stays_as_it_is() -> None:
    targets = ["a dog"]
    request = EditRequest(source_prompt="a cat", target_prompt=targets)
    targets.append("a hat")
    assert request.targets == ("a dog",)
    with pytest.raises(AttributeError):
        request.seed = 3  # type: ignore[misc]


def test_an_image_of_a_model_read_as_a_flow_says_so_where_that_is_not(toy_model: Any) -> None:
    flow = read_as_flow(toy_model)
    facts = {"model": flow.name, "revision": flow.revision, "sfumato": sfumato.__version__}
    recipe = Recipe(Path("image.png"), GenerateRequest(prompt="a cat"), facts)
    assert recipe.differences(flow) == []
    (said,) = recipe.differences(toy_model)
    assert said == f"the model {toy_model.name} was read as a flow then, and is not now: the image differs"
