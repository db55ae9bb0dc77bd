"""Direct inversion: the source cannot drift, the edited branches see it, and nothing else changes."""

from typing import Any

import torch
from torch import Tensor

from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.direct import direct_inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by
from tests.inversions.test_deterministic import SOURCE, clean

TARGET = "a photo of a dog on the house"


def test_the_source_comes_back_at_any_guidance(toy_model: Any) -> None:
    found = direct_inversion(InversionTask(toy_model, clean(2), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    for scale in (1.0, 7.5):
        branch = {"source": Branch(toy_model.encode_prompt(SOURCE), guidance_scale=scale)}
        back = sample(toy_model, found.noise, branch, timesteps=found.timesteps, replay=found)
        assert torch.equal(back[0], clean(2))


def test_it_walks_to_noise_as_ddim_does(toy_model: Any) -> None:
    task = InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4)
    for end in ("next", "current"):
        pinned, plain = (invert(task, conditioned_on=end) for invert in (direct_inversion, ddim_inversion))
        assert torch.equal(pinned.trajectory, plain.trajectory)
        assert pinned.pinned
        assert not plain.pinned


def test_the_guidance_of_the_source_is_of_no_consequence(toy_model: Any) -> None:
    found = direct_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    one, other = (
        edit_by(
            prompt_to_prompt, toy_model, found, source_prompt=SOURCE, target_prompts=[TARGET], guidance_scale=3.0,
            source_guidance_scale=scale,
        ).latents
        for scale in (1.0, 7.5)
    )  # fmt: skip
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4)  # three rows a step, and four


def test_every_step_of_the_source_lies_on_the_trajectory(toy_model: Any) -> None:
    found = direct_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    seen: list[Tensor] = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        assert torch.equal(latents[0], found.latents_at(step.index + 1))
        seen.append(latents[1])
        return latents

    edit_by(
        prompt_to_prompt,
        toy_model,
        found,
        source_prompt=SOURCE,
        target_prompts=[TARGET],
        guidance_scale=3.0,
        on_step=[keep],
    )
    assert len(seen) == 4
    assert not torch.allclose(seen[-1], found.clean)  # the edited branch runs free


def test_only_the_source_is_pinned(toy_model: Any) -> None:
    """Without control, the edited branch is what it would be from plain DDIM inversion."""
    options: dict[str, Any] = {
        "source_prompt": SOURCE, "target_prompts": [TARGET], "guidance_scale": 3.0, "cross_replace_steps": 0.0,
        "self_replace_steps": 0.0,
    }  # fmt: skip
    condition = toy_model.encode_prompt(SOURCE)
    pinned = direct_inversion(InversionTask(toy_model, clean(), condition, num_inference_steps=4))
    plain = ddim_inversion(InversionTask(toy_model, clean(), condition, num_inference_steps=4))
    held, free = (edit_by(prompt_to_prompt, toy_model, start, **options).latents for start in (pinned, plain))
    torch.testing.assert_close(held[1], free[1])
    assert not torch.allclose(held[0], free[0])
    with_control = options | {"cross_replace_steps": 1.0}
    held, free = (edit_by(prompt_to_prompt, toy_model, start, **with_control).latents for start in (pinned, plain))
    assert not torch.allclose(held[1], free[1])  # and with control it sees the pinned source


def test_pinning_comes_before_the_hooks_of_the_run(toy_model: Any) -> None:
    """Local blend copies the source's latents after each step: these must be the pinned ones."""
    found = direct_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    result = edit_by(
        prompt_to_prompt, toy_model, found, source_prompt=SOURCE, target_prompts=[TARGET], guidance_scale=3.0,
        blend_words=["cat", "dog"], blend_threshold=0.9, blend_start=0.0,
    )  # fmt: skip
    assert result.mask is not None
    outside = ~result.mask[0, 0]
    assert 0.0 < float(outside.float().mean()) < 1.0
    assert torch.equal(result.latents[1, 0][:, outside], clean()[0][:, outside])
