"""Cross-fade and latent slerp: closed forms, ends, constant paths, every inversion."""

from typing import Any

import pytest
import torch

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.noise_maps import edit_friendly_inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Condition
from sfumato.morphs.between_inversions import between, tent
from sfumato.morphs.slerp import slerp
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.morphs.toy_ends import PROMPTS, STEPS, drawn, far, path_of, task_of, toy_ends


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_a_crossfade_is_a_weighted_mean(toy_model: Any, space: Any) -> None:
    ends, before = toy_ends(), toy_model.evaluations
    path = path_of(toy_model, "crossfade", ends, space=space)
    first, second = ends.pixels if space == "pixels" else ends.latents
    frames = drawn(path, [0.0, 0.25, 1.0])
    assert path.in_pixels == (space == "pixels")
    assert torch.equal(frames[0], first)
    assert torch.equal(frames[2], second)
    assert torch.allclose(frames[1], 0.75 * first + 0.25 * second)
    assert toy_model.evaluations == before


@pytest.mark.parametrize(("inversion", "guidance_scale"), [("bdia", 1.0), ("dpm-encoder", 1.0), ("edit-friendly", 3.0)])
def test_exact_inversions_end_at_the_pictures(toy_model: Any, inversion: str, guidance_scale: float) -> None:
    frames = drawn(path_of(toy_model, "slerp", inversion=inversion, guidance_scale=guidance_scale))
    assert far(frames[[0, -1]], toy_ends().latents) < 1e-4
    assert far(frames[1], frames[0]) > 1e-2


@pytest.mark.filterwarnings("ignore:fixed-point inversion did not solve")  # a random network is not easily solved
@pytest.mark.parametrize("inversion", ["ddim", "fixed-point", "regularised-ddim", "negative-prompt"])
def test_other_ends_are_their_own_replays(toy_model: Any, inversion: str) -> None:
    options = {"inversion": inversion, "guidance_scale": 1.0}
    task = task_of(toy_model)
    noise = INVERSIONS[inversion].function(task.inversion()).noise
    alone = sample(toy_model, noise, {"end": Branch(task.condition)}, num_inference_steps=STEPS)[0]
    assert far(drawn(path_of(toy_model, "slerp", **options))[[0, -1]], alone) < 1e-4


@pytest.mark.filterwarnings("ignore:null-text inversion does not reconstruct")
def test_null_text_serves_guided_frames(toy_model: Any) -> None:
    path = path_of(toy_model, "slerp", inversion="null-text", guidance_scale=3.0, num_inference_steps=2)
    assert drawn(path).isfinite().all()


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_equal_ends_make_one_frame(name: str, request: Any) -> None:
    frames = drawn(path_of(request.getfixturevalue(name), "slerp", toy_ends(equal=True)))
    assert far(frames, frames[:1].expand_as(frames)) < 1e-5


def test_frames_depend_on_their_weight_alone(toy_model: Any) -> None:
    path = path_of(toy_model, "slerp", inversion="edit-friendly", guidance_scale=2.0)
    together = drawn(path)
    for weight, frame in zip((0.0, 0.3, 0.5, 1.0), together, strict=True):
        assert far(drawn(path, [weight])[0], frame) < 1e-5


def test_a_frame_is_a_plain_run_from_the_noise_between(toy_model: Any) -> None:
    ends = toy_ends()
    condition = toy_model.encode_prompt(list(PROMPTS))
    noise = ddim_inversion(InversionTask(toy_model, ends.latents, condition, num_inference_steps=STEPS)).noise
    embeds = torch.lerp(*condition.text, 0.3)
    one = sample(
        toy_model,
        slerp(noise[:1], noise[1:], 0.3),
        {"frame": Branch(Condition(embeds[None]))},
        num_inference_steps=STEPS,
    )[0, 0]
    assert far(drawn(path_of(toy_model, "slerp", ends), [0.3])[0], one) < 1e-5


def test_mixtures_end_at_the_ends(toy_model: Any) -> None:
    found = edit_friendly_inversion(task_of(toy_model, num_inference_steps=3).inversion(2.0))
    mixed = between(found, [0.0, 0.5, 1.0])
    assert found.noise_maps is not None
    assert mixed.noise_maps is not None
    for frame, end in ((0, 0), (2, 1)):
        assert torch.allclose(mixed.noise[frame], found.noise[end], atol=1e-6)
        assert torch.allclose(mixed.noise_maps[:, frame], found.noise_maps[:, end], atol=1e-5)


def test_the_tent_is_straight() -> None:
    assert [tent(w, 5.0, 1.0) for w in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 3.0, 5.0, 3.0, 1.0]


def test_costs_what_the_summary_says(toy_model: Any) -> None:
    before = toy_model.evaluations
    path = path_of(toy_model, "slerp")
    assert toy_model.evaluations - before == 2 * STEPS
    drawn(path)
    assert toy_model.evaluations - before == (2 + 4) * STEPS
