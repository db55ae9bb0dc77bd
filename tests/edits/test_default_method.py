"""The method that an edit takes where none is named: that which suits the model."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.api.batch_items import Settings, items_of
from sfumato.api.manifest import Line
from sfumato.api.requests import EditRequest
from sfumato.edits.default_method import DEFAULTS, default_method
from sfumato.edits.method import METHODS
from sfumato.errors import ModelError, UsageError
from sfumato.images.writing import read_recipe
from sfumato.models.loading import traits_named
from sfumato.models.traits import TRAITS, traits_of, unmet
from tests.command import invoke
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline
from tests.toy_unconditional import toy_ddpm_pipeline

PROMPTS = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
RED = Image.new("RGB", (64, 48), (200, 30, 30))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pipelines = {
        "sd3": toy_sd3_pipeline(), "flux": toy_flux_pipeline(), "pixels": toy_ddpm_pipeline()
    }  # fmt: skip
    places = {}
    for name, pipeline in pipelines.items():
        places[name] = tmp_path_factory.mktemp("models") / name
        pipeline.save_pretrained(places[name])
    return places


@pytest.mark.parametrize(
    ("name", "method"),
    [("sd3", "flowedit"), ("flux", "flowedit"), ("sd", "prompt-to-prompt"), ("pixels", "sdedit")],
)
def test_a_model_and_its_name_have_the_same_traits_and_default(
    name: str, method: str, folders: dict[str, Path], tiny_sd: Path
) -> None:
    place = {**folders, "sd": tiny_sd}[name]
    model = sfumato.load_model(place, device="cpu")
    assert traits_of(model) == traits_named(place)
    assert default_method(model) == default_method(place) == method
    assert not unmet(METHODS[method].needs, model)


def test_every_default_is_a_method_for_a_trait() -> None:
    assert set(DEFAULTS) <= set(TRAITS)
    assert set(DEFAULTS.values()) <= set(METHODS)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_an_edit_and_a_slider_of_a_flow_need_no_method(family: str, folders: dict[str, Path]) -> None:
    model = sfumato.load_model(folders[family], device="cpu")
    result = sfumato.edit(model, RED, **PROMPTS, num_inference_steps=3)
    assert result.recipe["method"] == "flowedit"
    assert result.recipe["options"]["strength"] == model.method_options["flowedit"]["strength"]
    named = sfumato.edit(model, RED, **PROMPTS, num_inference_steps=3, method="flowedit")
    assert named.image.tobytes() == result.image.tobytes()
    assert sfumato.edit(model, RED, **PROMPTS, num_inference_steps=3, strength=0.5).recipe["method"] == "flowedit"
    if family == "flux":
        frames = sfumato.slider(model, RED, **PROMPTS, num_inference_steps=2, num_frames=3, distance="pixel")
        assert frames.recipe["method"] == "flowedit"
    inverted = sfumato.invert(model, RED, num_inference_steps=2)
    assert inverted.inversion.method == "direct"


def test_a_request_takes_the_method_of_the_model_that_runs_it(tiny_model: Any, folders: dict[str, Path]) -> None:
    request = EditRequest.from_json(json.loads(json.dumps(EditRequest(**PROMPTS).to_json())))
    assert request.method is None
    assert request.suited(tiny_model).method == "prompt-to-prompt"
    with pytest.raises(UsageError, match="unknown option 'strength' of prompt-to-prompt"):
        EditRequest(**PROMPTS, options={"strength": 0.5}).suited(tiny_model)
    with pytest.raises(UsageError, match="model must be a model from"):
        sfumato.edit("flux", **PROMPTS)  # type: ignore[call-overload]


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_command_edits_a_flow_without_a_method(
    family: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RED.save("red.png")
    where = ("--model", folders[family], "--device", "cpu")
    prompts = ("--source", PROMPTS["source_prompt"], "--target", PROMPTS["target_prompt"], "--steps", 3)
    made = invoke("edit", "red.png", *prompts, *where, "--set", "draws=2", "-o", "edited.png", "--json")
    assert made.exit_code == 0, made.output
    recipe = read_recipe("edited.png")
    assert (recipe["method"], recipe["options"]["draws"]) == ("flowedit", 2)
    refused = invoke("edit", "red.png", *prompts, *where, "--weight", "dog=2")
    assert "the method flowedit has no word weights" in refused.output
    listed = invoke("methods", *where, "--json")
    assert [entry["name"] for entry in json.loads(listed.stdout)["methods"] if entry["default"]] == ["flowedit"]
    assert "that name no method take flowedit" in " ".join(invoke("methods", *where).output.split())


def test_a_model_that_is_not_there_is_named_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file or folder"):
        default_method(tmp_path / "none")


def test_rows_of_a_batch_take_the_default_of_its_model(folders: dict[str, Path], tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    row = Line(1, {"image": "red.png", **PROMPTS, "option.strength": "0.5"})
    (item,) = items_of([row], {}, Settings({"name": str(folders["flux"])}, tmp_path))
    assert item.error == ""
    assert (item.arguments["method"], item.arguments["options"]) == ("flowedit", {"strength": 0.5})
