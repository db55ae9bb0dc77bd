"""What a task makes of its fields: branches, guidance, the latents of the source, the loop, the result."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.conditions.mixing import PromptMix
from sfumato.edits.task import EditTask
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.loop import Branch, sample

SOURCE, TARGET, OTHER, STEPS = "a photo of a cat", "a photo of a dog", "a red house", 3


def drawn(model: Any) -> Inversion:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return Inversion("drawn", noise, tuple(model.schedule.timesteps(STEPS)))


def test_branches_hold_each_prompt_and_its_guidance(toy_model: Any) -> None:
    task = EditTask(toy_model, drawn(toy_model), SOURCE, [TARGET, OTHER], "a hat", 3.0, 1.5)
    assert list(task.branches) == ["source", "target-1", "target-2"]
    assert list(task.targets) == ["target-1", "target-2"]
    rows = toy_model.encode_prompt([SOURCE, TARGET, OTHER, "a hat"])
    for k, branch in enumerate(task.branches.values()):
        assert torch.equal(branch.condition.text, rows[[k]].text)
        assert branch.negative is not None
        assert torch.equal(branch.negative.text, rows[[3]].text)
        assert branch.guidance_scale == (3.0 if k else 1.5)
    assert list(replace(task, target_prompts=[TARGET]).branches) == ["source", "target"]


def test_a_mix_stands_in_the_place_of_the_targets_alone(toy_model: Any) -> None:
    plain = EditTask(toy_model, drawn(toy_model), SOURCE, [TARGET], "a hat")
    mixed = replace(plain, mix=PromptMix.between(toy_model, SOURCE, TARGET).at(0.0))
    for branches in (mixed.branches, mixed.targets):
        assert torch.allclose(branches["target"].condition.text, plain.condition.text[:1], atol=1e-5)
    assert torch.equal(mixed.condition.text[[0, 2]], plain.condition.text[[0, 2]])


def test_guidance_of_the_source_is_that_of_its_inversion_where_nothing_is_said(toy_model: Any) -> None:
    source = drawn(toy_model)
    inverted = replace(source, method="ddim", trajectory=source.noise[None], guidance_scale=2.0)
    assert EditTask(toy_model, source, SOURCE, [TARGET], guidance_scale=3.0).source_scale == 3.0
    assert EditTask(toy_model, inverted, SOURCE, [TARGET], guidance_scale=3.0).source_scale == 2.0
    assert EditTask(toy_model, inverted, SOURCE, [TARGET], source_guidance_scale=1.5).source_scale == 1.5


def test_prompts_are_encoded_once(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked, encode = EditTask(toy_model, drawn(toy_model), SOURCE, [TARGET]), [], toy_model.encode_prompt
    monkeypatch.setitem(vars(toy_model), "encode_prompt", lambda prompts: (asked.append(prompts), encode(prompts))[1])
    _ = task.branches, task.targets, task.branches, task.targets
    assert asked == [[SOURCE, TARGET, ""], [TARGET, ""]]


def test_a_drawn_source_is_sampled_once_for_its_latents(toy_model: Any) -> None:
    task, before = EditTask(toy_model, drawn(toy_model), SOURCE, [TARGET], guidance_scale=3.0), toy_model.evaluations
    first, second = task.with_latents, task.with_latents
    assert first is second
    assert toy_model.evaluations - before == 2 * STEPS
    known = replace(task, source=first)
    assert known.with_latents is first


def test_sample_is_the_loop_with_the_tasks_hooks_last(toy_model: Any) -> None:
    source, calls = drawn(toy_model), []

    def hook(name: str) -> Any:
        return lambda latents, step: (calls.append((name, step.index, len(latents))), latents)[1]

    task = EditTask(toy_model, source, SOURCE, [TARGET], guidance_scale=3.0, on_step=[hook("task")])
    latents = task.sample(on_step=[hook("recipe")])
    plain = sample(toy_model, source.noise, task.branches, timesteps=source.timesteps)
    assert torch.equal(latents, plain)
    assert calls == [(name, index, 2) for index in range(STEPS) for name in ("recipe", "task")]


def test_sample_begins_where_the_source_leads_back_from(toy_model: Any) -> None:
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    timesteps = toy_model.schedule.timesteps(STEPS)
    whole = ddim_inversion(InversionTask(toy_model, clean, toy_model.encode_prompt(SOURCE), timesteps=timesteps))
    start = replace(whole, noise=whole.latents_at(1), start_index=1)
    task = EditTask(toy_model, start, SOURCE, [TARGET], guidance_scale=1.0)
    branch = {"source": Branch(toy_model.encode_prompt(SOURCE))}
    plain = sample(toy_model, start.noise, branch, timesteps=timesteps, start_index=1)
    assert torch.allclose(task.sample()[:1], plain, atol=1e-5)


@pytest.mark.parametrize("alike", [True, False])
def test_results_have_a_row_for_every_branch(toy_model: Any, alike: bool) -> None:
    clean: Tensor = drawn(toy_model).noise
    task = EditTask(toy_model, drawn(toy_model), SOURCE, [TARGET, OTHER])
    edit = task.edited(clean) if alike else task.edited(clean[None].repeat(2, 1, 1, 1, 1), source=clean)
    assert edit.branches == ("source", "target-1", "target-2")
    assert all(torch.equal(branch, clean) for branch in edit.latents)
    assert len(edit.latents) == 3
