"""`emoji-turbo`: the embedded model with the network of its student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato
from sfumato.emoji import turbo_defaults
from sfumato.errors import ModelError
from sfumato.models.loading import load_model
from sfumato.watch import Watch
from tests.toy import toy_sd_folder, toy_sd_pipeline

SCHEDULER = {
    "_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "original_inference_steps": 8,
}  # fmt: skip


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy model in the embedded one's place, and a student of it."""
    monkeypatch.setattr(turbo_defaults, "WEIGHTS", toy_sd_folder(tmp_path / "weights"))
    monkeypatch.setattr(turbo_defaults, "STUDENT", tmp_path / "turbo")
    toy_sd_pipeline(seed=1).unet.save_pretrained(tmp_path / "turbo" / "unet", max_shard_size="100KB")
    (tmp_path / "turbo" / "scheduler").mkdir()
    (tmp_path / "turbo" / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return tmp_path / "turbo"


def test_the_student_draws_in_four_steps_with_its_own_network_and_its_teachers_text_encoder(student: Path) -> None:
    model: Any = load_model("emoji-turbo", device="cpu")
    assert (model.few_steps, model.num_inference_steps, model.guidance_scale, model.sampler) == (True, 4, 1.0, "lcm")
    assert model.schedule.timesteps(4) == [999, 749, 499, 249]
    teacher: Any = load_model(student.parent / "weights", device="cpu")
    own = toy_sd_pipeline(seed=1).unet.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.unet.state_dict().items())
    assert model.text_fingerprint == teacher.text_fingerprint
    drawn = sfumato.generate(model, "a cat", watch=Watch(progress=lambda _: None))
    assert drawn.cost.evaluations == 4


def test_the_revision_tells_students_apart(student: Path) -> None:
    one = load_model("emoji-turbo", device="cpu").revision
    assert one.startswith(load_model(student.parent / "weights", device="cpu").revision + "-")
    toy_sd_pipeline(seed=2).unet.save_pretrained(student / "unet", max_shard_size="100KB")
    assert load_model("emoji-turbo", device="cpu").revision != one


def test_an_installation_without_the_student_says_so(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbo_defaults, "STUDENT", student / "none")
    with pytest.raises(ModelError, match=r"lacks the model emoji-turbo .*: take emoji, or train it with python -m"):
        load_model("emoji-turbo")


def test_a_student_without_its_scheduler_is_none(student: Path) -> None:
    (student / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelError, match="holds no student: a network in unet and the scheduler"):
        load_model("emoji-turbo")


def test_a_scheduler_that_is_not_known_is_named(student: Path) -> None:
    (student / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    with pytest.raises(ModelError, match=r"scheduler_config.json: .*EDMEulerScheduler"):
        load_model("emoji-turbo")


def test_a_student_of_another_model_is_refused(student: Path, tiny_sd: Path) -> None:
    (student / "unet").rename(student / "own")
    (student / "unet").symlink_to(tiny_sd / "unet")
    with pytest.raises(ModelError, match=r"was made for another model \("):
        load_model("emoji-turbo")


def test_what_is_damaged_is_refused(student: Path) -> None:
    for file in (student / "unet").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError):
        load_model("emoji-turbo")
