"""What morphs share: prompts, the task of inverting both images, the store, the watch of a frame."""

from pathlib import Path
from typing import Any

import torch

from sfumato.adaptation.store import Store
from sfumato.morphs.path import adaptation_key
from sfumato.watch import Watch
from tests.morphs.toy_ends import PROMPTS, task_of


def test_both_images_are_inverted_as_frames_are_sampled(toy_model: Any) -> None:
    task = task_of(toy_model, num_inference_steps=3, negative_prompt="red", guidance_scale=5.0)
    inverting = task.inversion()
    assert torch.equal(inverting.latents, task.ends.latents)
    assert torch.equal(inverting.condition.text, toy_model.encode_prompt(list(PROMPTS)).text)
    assert inverting.negative is not None
    assert torch.equal(inverting.negative.text, toy_model.encode_prompt("red").text)
    assert (len(inverting.steps), inverting.guidance_scale) == (3, 1.0)
    assert task.inversion(2.0).guidance_scale == 2.0
    assert inverting.generator is task.generator


def test_adaptations_are_kept_under_their_key(toy_model: Any, tmp_path: Path) -> None:
    assert task_of(toy_model).slot("lora", {"rank": 4}) is None
    task = task_of(toy_model, store=Store(tmp_path))
    slot = task.slot("lora", {"rank": 4})
    assert slot is not None
    slot.save({"up": torch.ones(1)}, {})
    assert [path.stem for path in tmp_path.iterdir()] == [adaptation_key(toy_model, task.ends, "lora", {"rank": 4})]


def test_frames_may_be_cancelled_and_report_nothing(toy_model: Any) -> None:
    watch = Watch(progress=lambda progress: None, cancelled=lambda: True)
    quiet = task_of(toy_model, watch=watch).frame_watch
    assert quiet.progress is None
    assert quiet.cancelled is watch.cancelled
