"""Fast edits: which model and method they take, what they cost, and what is refused."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.api import fast
from sfumato.api.requests import EditRequest, SliderRequest
from sfumato.errors import UsageError
from sfumato.watch import Watch
from tests.command import invoke
from tests.toy import toy_sd_folder

PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
QUIET: dict[str, Any] = {"watch": Watch(progress=lambda _: None)}


@pytest.fixture(scope="module")
def few(toy_model: Any) -> Any:
    """A latent consistency model of four steps; its networks are the toy model's."""
    model = copy.copy(toy_model)
    model.schedule = replace(toy_model.schedule, spacing="lcm", final_alpha_bar=1.0)
    model.few_steps, model.num_inference_steps, model.guidance_scale = True, 4, 1.0
    return model


@pytest.fixture(scope="module")
def many(toy_model: Any) -> Any:
    """A model of many steps that another was distilled from, by its name."""
    model = copy.copy(toy_model)
    model.name = "emoji"
    return model


@pytest.fixture
def loaded(few: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are loaded, in whose place the few-step model is given."""
    names: list[str] = []
    fast._loaded.cache_clear()
    monkeypatch.setattr(fast, "load_model", lambda name, **_: names.append(name) or few)
    return names


def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((32, 32)).convert("RGB")


def test_a_fast_edit_costs_four_evaluations_and_its_recipe_says_how_it_was_made(few: Any) -> None:
    quick = sfumato.edit(few, picture(), fast=True, **PROMPTS, **QUIET)
    assert quick.cost.evaluations == 4
    said = quick.recipe
    assert (said["method"], said["options"], said["fast"]) == ("chord-edit", {"cleanup": False}, False)
    again = EditRequest.from_json({name: said[name] for name in EditRequest.json_fields() if name != "image"})
    assert replace(again, image=picture()).run(few, **QUIET).images[0].tobytes() == quick.images[0].tobytes()


def test_options_that_the_user_gives_stand(few: Any) -> None:
    said = sfumato.edit(few, picture(), fast=True, cleanup=True, t_start=0.7, **PROMPTS, **QUIET)
    assert said.recipe["options"] == {"cleanup": True, "t_start": 0.7}
    assert said.cost.evaluations == 5


def test_a_model_that_another_was_distilled_from_is_exchanged_for_it_once(
    many: Any, few: Any, loaded: list[str]
) -> None:
    own = sfumato.edit(few, picture(), fast=True, **PROMPTS, **QUIET)
    for _ in range(2):
        quick = sfumato.edit(many, picture(), fast=True, **PROMPTS, **QUIET)
        assert quick.images[0].tobytes() == own.images[0].tobytes()
        assert quick.recipe["model"] == few.name
    assert loaded == ["emoji-turbo"]
    assert sfumato.edit(many, picture(), num_inference_steps=2, **PROMPTS, **QUIET).recipe["model"] == "emoji"


def test_fast_and_other_edits_run_side_by_side(many: Any, few: Any, loaded: list[str]) -> None:
    asked = [EditRequest(image=picture(), method="chord-edit", **PROMPTS)]
    asked.append(replace(asked[0], fast=True))
    plain, quick = sfumato.edit_many(many, asked, **QUIET)
    assert isinstance(plain, sfumato.EditResult)
    assert isinstance(quick, sfumato.EditResult)
    assert (plain.recipe["model"], quick.recipe["model"]) == ("emoji", few.name)


def test_several_images_and_frames_are_fast_too(many: Any, few: Any, loaded: list[str]) -> None:
    two = sfumato.edit(many, [picture(), picture()], fast=True, **PROMPTS, **QUIET)
    assert [result.recipe["model"] for result in two] == [few.name] * 2
    request = SliderRequest(image=picture(), fast=True, num_frames=3, spacing="even", **PROMPTS)
    frames = request.run(many, **QUIET)
    assert frames.recipe["model"] == few.name


def test_a_model_of_many_steps_is_refused_with_a_remedy(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="toy is none: take one such as emoji-turbo, sd-turbo or sdxl-turbo"):
        sfumato.edit(toy_model, picture(), fast=True, **PROMPTS, **QUIET)


def test_files_that_were_added_to_a_model_are_not_lost_in_silence(many: Any, loaded: list[str]) -> None:
    adapted = copy.copy(many)
    adapted.parts = {"vae": {"path": "other.safetensors"}}
    with pytest.raises(UsageError, match="fast takes emoji-turbo, without the files that were added to emoji"):
        sfumato.edit(adapted, picture(), fast=True, **PROMPTS, **QUIET)


def test_another_method_and_fast_do_not_go_together(few: Any) -> None:
    with pytest.raises(UsageError, match="fast edits by chord-edit, not by sdedit: leave out fast"):
        sfumato.edit(few, picture(), fast=True, method="sdedit", **PROMPTS, **QUIET)


def test_the_command_is_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("cat.png")
    folder = toy_sd_folder(tmp_path / "lcm")
    config = {"_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    prompts = ("--source", PROMPTS["source_prompt"], "--target", PROMPTS["target_prompt"])
    done = invoke("edit", "cat.png", "--fast", "--model", folder, "-o", "dog.png", "--json", *prompts)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["cost"]["evaluations"] == 4
    refused = invoke("edit", "cat.png", "--fast", "--like", "dog.png", *prompts)
    assert refused.exit_code == 2
    assert "leave out --fast" in refused.stderr
