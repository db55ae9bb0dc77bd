"""Editing with noise maps, CycleDiffusion and edit-friendly alike: identities, costs, leaks, control, loud failures."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.cycle_diffusion import cycle_diffusion
from sfumato.edits.edit_friendly import edit_friendly
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.result import LatentEdit
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import dpm_encoder, edit_friendly_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat on the house", "a photo of a dog on the house"
STEPS = 3
BOTH = pytest.mark.parametrize(
    ("recipe", "encode"), [(cycle_diffusion, dpm_encoder), (edit_friendly, edit_friendly_inversion)]
)


def clean(images: int = 1) -> Tensor:
    return 0.5 * torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def invert(model: Any, encode: Any, *, images: int = 1, guidance_scale: float = 1.0, **options: Any) -> Inversion:
    noise = torch.randn(STEPS, images, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    noise = noise[-int(STEPS * options.get("strength", 1.0) + 1e-6) :]
    condition = model.encode_prompt(SOURCE)
    task = InversionTask(model, clean(images), condition, None, guidance_scale, num_inference_steps=STEPS)
    inverted: Inversion = encode(task, noise=noise, **options)
    return inverted


def run(model: Any, recipe: Any, source: Inversion, *targets: str, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 3.0, "strength": 1.0} | options
    return edit_by(recipe, model, source, source_prompt=SOURCE, target_prompts=targets, **options)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
@pytest.mark.parametrize("control", ["none", "replace"])
@BOTH
def test_equal_prompts_give_the_picture_back(recipe: Any, encode: Any, control: str, name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    source = invert(model, encode, guidance_scale=2.0)
    result = run(model, recipe, source, SOURCE, guidance_scale=2.0, attention_control=control)
    assert result.branches == ("source", "target")
    assert far(result.latents[0], clean()) < 1e-4
    assert far(result.latents[1], clean()) < 1e-3


@BOTH
def test_strength_zero_is_the_picture_and_costs_nothing(recipe: Any, encode: Any, toy_model: Any) -> None:
    source, before = invert(toy_model, encode), toy_model.evaluations
    for options in ({"strength": 0.0}, {"skip_steps": STEPS}, {"strength": 0.0, "attention_control": "replace"}):
        result = run(toy_model, recipe, source, TARGET, **options)
        assert torch.equal(result.latents, clean().expand(2, -1, -1, -1, -1))
    assert toy_model.evaluations == before


@BOTH
def test_without_control_the_edit_is_plain_sampling_from_the_pictures_latents(
    recipe: Any, encode: Any, toy_model: Any
) -> None:
    source = invert(toy_model, encode)
    result = run(toy_model, recipe, source, TARGET, skip_steps=1)
    alone = sample(
        toy_model, source.latents_at(1), {"t": Branch(toy_model.encode_prompt(TARGET), None, 3.0)},
        timesteps=source.timesteps, start_index=1, eta=source.eta, replay=source,
    )  # fmt: skip
    assert far(result.latents[1], alone[0]) < 1e-6
    assert far(result.latents[1], clean()) > 1e-2


@BOTH
def test_strength_and_skipped_steps_are_the_same_thing(recipe: Any, encode: Any, toy_model: Any) -> None:
    source = invert(toy_model, encode)
    by_strength, by_steps = (
        run(toy_model, recipe, source, TARGET, **options) for options in ({"strength": 1 / STEPS}, {"skip_steps": 2})
    )
    assert torch.equal(by_strength.latents, by_steps.latents)
    whole = run(toy_model, recipe, source, TARGET)
    assert far(by_steps.latents[1], clean()) < far(whole.latents[1], clean())


@BOTH
def test_the_cost_is_what_the_docstring_says(recipe: Any, encode: Any, toy_model: Any) -> None:
    def cost(*targets: str, source: Inversion, **options: Any) -> int:
        before = toy_model.evaluations
        run(toy_model, recipe, source, *targets, **options)
        return int(toy_model.evaluations - before)

    plain = invert(toy_model, encode)
    assert cost(TARGET, source=plain) == 2 * STEPS + 1
    assert cost(TARGET, source=plain, guidance_scale=1.0) == STEPS + 1
    assert cost(TARGET, SOURCE, source=plain, skip_steps=1) == 2 * 2 * (STEPS - 1) + 1
    assert cost(TARGET, source=invert(toy_model, encode, guidance_scale=2.0)) == 2 * STEPS + 2
    assert cost(TARGET, source=plain, attention_control="replace") == 3 * STEPS
    guided = invert(toy_model, encode, guidance_scale=2.0)
    assert cost(TARGET, source=guided, attention_control="replace") == 4 * STEPS


@BOTH
def test_several_targets_and_images_equal_single_runs(recipe: Any, encode: Any, toy_model: Any) -> None:
    targets = (TARGET, "a photo of a hat on the house")
    for control in ("none", "replace"):
        whole = run(toy_model, recipe, invert(toy_model, encode, images=2), *targets, attention_control=control)
        assert whole.branches == ("source", "target-1", "target-2")
        for image in range(2):
            source = invert(toy_model, encode, images=2)
            assert source.trajectory is not None
            assert source.noise_maps is not None
            one = Inversion(
                source.method, source.noise[[image]], source.timesteps, source.trajectory[:, [image]],
                source.noise_maps[:, [image]], eta=source.eta,
            )  # fmt: skip
            alone = run(toy_model, recipe, one, targets[image], attention_control=control)
            assert far(alone.latents[1], whole.latents[1 + image, [image]]) < 1e-4


@BOTH
def test_distances_tell_how_the_branches_part(recipe: Any, encode: Any, toy_model: Any) -> None:
    for control in ("none", "replace"):
        result = run(
            toy_model, recipe, invert(toy_model, encode, images=2), TARGET, skip_steps=1, attention_control=control
        )
        assert result.distances is not None
        assert result.distances.shape == (STEPS - 1, 1, 2)
        end = (result.latents[1] - result.latents[0]).flatten(1).norm(dim=1)
        assert torch.allclose(result.distances[-1, 0], end, rtol=1e-3)


@BOTH
def test_hooks_see_the_source_as_its_inversion_has_it(recipe: Any, encode: Any, toy_model: Any) -> None:
    source = invert(toy_model, encode)
    seen = []

    def keep_half(latents: Tensor, step: Any) -> Tensor:
        seen.append((step.index, latents[0]))
        kept = latents[1:].clone()
        kept[..., :4] = latents[:1, ..., :4]
        return torch.cat([latents[:1], kept])

    result = run(toy_model, recipe, source, TARGET, on_step=[keep_half])
    for index, latents in seen:
        assert far(latents, source.latents_at(index + 1)) < 1e-5
    assert far(result.latents[1, ..., :4], clean()[..., :4]) < 1e-5
    assert far(result.latents[1, ..., 4:], clean()[..., 4:]) > 1e-2


@BOTH
def test_control_moves_the_edit_and_not_the_source(recipe: Any, encode: Any, toy_model: Any) -> None:
    source = invert(toy_model, encode)
    free = run(toy_model, recipe, source, TARGET)
    off = {"attention_control": "replace", "cross_replace_steps": 0.0, "self_replace_steps": 0.0}
    assert far(run(toy_model, recipe, source, TARGET, **off).latents[1], free.latents[1]) < 1e-4
    for options in ({"cross_replace_steps": 1.0}, {"self_replace_steps": 1.0}):
        held = run(toy_model, recipe, source, TARGET, **(off | options))
        assert far(held.latents[1], free.latents[1]) > 1e-4
        assert far(held.latents[0], clean()) < 1e-4
        assert held.maps is not None


@BOTH
def test_shares_of_the_control_count_from_the_first_executed_step(recipe: Any, encode: Any, toy_model: Any) -> None:
    """Of three steps the first is skipped; a share of one step must fall on the second, not on the skipped one."""
    source = invert(toy_model, encode)
    for share in ({"cross_replace_steps": 0.4}, {"self_replace_steps": 0.4}):
        off = {"attention_control": "replace", "cross_replace_steps": 0.0, "self_replace_steps": 0.0, "skip_steps": 1}
        free, held = (run(toy_model, recipe, source, TARGET, **options) for options in (off, off | share))
        assert far(held.latents[1], free.latents[1]) > 1e-5


@BOTH
def test_drawn_pictures_are_edited_under_their_own_draws(recipe: Any, encode: Any, toy_model: Any) -> None:
    drawn = Inversion("drawn", torch.randn(1, 4, 8, 8), tuple(toy_model.schedule.timesteps(STEPS)))
    options: dict[str, Any] = {"eta": 0.5, "strength": 0.7}
    before = toy_model.evaluations
    same = run(toy_model, recipe, drawn, SOURCE, generator=torch.Generator().manual_seed(3), **options)
    assert toy_model.evaluations - before == 2 * STEPS + 2 * 2 + 2
    assert far(same.latents[1], same.latents[0]) < 1e-4
    other = run(toy_model, recipe, drawn, TARGET, generator=torch.Generator().manual_seed(3), **options)
    assert far(other.latents[0], same.latents[0]) < 1e-6
    assert far(other.latents[1], same.latents[0]) > 1e-3
    again = run(toy_model, recipe, drawn, TARGET, generator=torch.Generator().manual_seed(4), **options)
    assert far(again.latents[0], same.latents[0]) > 1e-3


@BOTH
def test_nothing_leaks_also_when_a_run_breaks(recipe: Any, encode: Any, toy_model: Any) -> None:
    condition, latents = toy_model.encode_prompt("a cat"), torch.randn(1, 4, 8, 8)
    source = invert(toy_model, encode)

    def explode(latents: Tensor, step: Any) -> Tensor:
        raise RuntimeError("on purpose")

    with torch.no_grad():
        before = toy_model.predict(latents, 400, condition)
        run(toy_model, recipe, source, TARGET, attention_control="replace")
        assert torch.equal(toy_model.predict(latents, 400, condition), before)
        with pytest.raises(RuntimeError, match="on purpose"):
            run(toy_model, recipe, source, TARGET, attention_control="replace", on_step=[explode])
        assert torch.equal(toy_model.predict(latents, 400, condition), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": 1.5}, UsageError, r"strength must be in \[0, 1\], got 1.5"),
        ({"skip_steps": STEPS + 1}, UsageError, r"skip_steps must be in \[0, 3\], got 4"),
        ({"source_guidance_scale": 2.0}, InversionError, "was made at guidance 1"),
        ({"attention_control": "replace", "target": "one dog"}, UsageError, "equally many words"),
        ({"attention_control": "auto", "self_replace_steps": (0.6, 0.2)}, UsageError, "start <= end"),
        ({"inverted": {"strength": 0.4}}, InversionError, "holds the last 1: lower the edit's strength to 0.333"),
        ({"inverted": {"prompt": "a hat"}}, InversionError, "was made with the prompt 'a hat'"),
        ({"inverted": "ddim"}, InversionError, "a ddim inversion keeps no noise maps"),
        ({"inverted": "drawn", "eta": 0.0}, UsageError, "eta=0 adds no noise"),
    ],
)
@BOTH
def test_mistakes_are_named_before_any_work(
    recipe: Any, encode: Any, options: Any, error: Any, message: str, toy_model: Any
) -> None:
    options = dict(options)
    inverted = options.pop("inverted", {})
    if inverted == "ddim":
        source = ddim_inversion(
            InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=STEPS)
        )
    elif inverted == "drawn":
        source = Inversion("drawn", clean(), tuple(toy_model.schedule.timesteps(STEPS)))
    else:
        strength = {key: value for key, value in inverted.items() if key == "strength"}
        source = replace(invert(toy_model, encode, **strength), prompt=inverted.get("prompt", ""))
    before = toy_model.evaluations
    with pytest.raises(error, match=message):
        run(toy_model, recipe, source, options.pop("target", TARGET), **options)
    assert toy_model.evaluations == before


def test_prompt_to_prompt_starts_where_a_partial_inversion_does(toy_model: Any) -> None:
    source = invert(toy_model, dpm_encoder, strength=0.7)
    options: dict[str, Any] = {"guidance_scale": 1.0, "cross_replace_steps": 0.0, "self_replace_steps": 0.0}
    before = toy_model.evaluations
    prompts: dict[str, Any] = {"source_prompt": SOURCE, "target_prompts": [TARGET]}
    result = edit_by(prompt_to_prompt, toy_model, source, **prompts, **options)
    assert toy_model.evaluations - before == 2 * 2
    assert far(result.latents[0], clean()) < 1e-4
    assert far(result.latents[1], clean()) > 1e-3
