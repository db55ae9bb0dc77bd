"""Edits and inversions for few steps: what they leave alone, how they are one another's cases, and what they cost."""

import copy
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sfumato.edits.chord_edit import chord_edit
from sfumato.edits.clean_difference import Differences
from sfumato.edits.delta_denoising import delta_denoising
from sfumato.edits.edit_friendly import edit_friendly
from sfumato.edits.flowedit import flowedit
from sfumato.edits.keep_outside import KeepOutside
from sfumato.edits.sdedit import sdedit
from sfumato.edits.task import EditTask
from sfumato.edits.turbo_edit import turbo_edit
from sfumato.edits.virtual_inversion import virtual_inversion
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import edit_friendly_inversion
from sfumato.inversions.renoise import renoise
from sfumato.inversions.result import Inversion
from sfumato.inversions.shifted import shifted_edit_friendly
from sfumato.inversions.task import InversionTask
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.toy import toy_sd_pipeline
from tests.toy_flow import short_sd3

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"
GRID = (799, 599, 399, 199)


def clean(images: int = 1) -> Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_image(latents: Tensor) -> Inversion:
    return Inversion("picture", drawn(*latents.shape), GRID, trajectory=latents[None])


def task(model: Any, source: Inversion, target: str = TARGET, **fields: Any) -> EditTask:
    given = {"guidance_scale": 1.0, "generator": torch.Generator().manual_seed(3), **fields}
    return EditTask(model, source, SOURCE, [target], **given)


def inverting(model: Any, latents: Tensor) -> InversionTask:
    return InversionTask(model, latents, model.encode_prompt(SOURCE), timesteps=GRID)


def shifted(model: Any, latents: Tensor) -> Inversion:
    return shifted_edit_friendly(inverting(model, latents), noise=drawn(3, *latents.shape), strength=1.0)


@pytest.fixture(scope="module")
def guided_model() -> Any:
    """A network that takes its guidance scale as an input."""
    pipeline = toy_sd_pipeline(time_cond_proj_dim=32)
    torch.nn.init.normal_(pipeline.unet.time_embedding.cond_proj.weight, generator=torch.Generator().manual_seed(0))
    return StableDiffusion.from_pipeline(pipeline, name="toy-lcm", revision="toy-lcm")


WITHOUT_INVERSION = {
    "virtual-inversion": (virtual_inversion, {}),
    "chord-edit": (chord_edit, {"cleanup": False, "num_edit_steps": 2}),
    "delta-denoising": (delta_denoising, {"iterations": 6}),
    "delta-denoising at edit-friendly rates": (delta_denoising, {"rates": "edit-friendly"}),
}


@pytest.mark.parametrize("name", list(WITHOUT_INVERSION))
def test_equal_prompts_change_nothing(toy_model: Any, name: str) -> None:
    edit, options = WITHOUT_INVERSION[name]
    latents = clean(2)
    result = edit(task(toy_model, of_image(latents), SOURCE), **options)
    for branch in result.latents:
        torch.testing.assert_close(branch, latents, atol=1e-4, rtol=1e-4)
    other = edit(task(toy_model, of_image(latents)), **options)
    assert float((other.latents[1] - latents).norm() / latents.norm()) > 1e-3


@pytest.mark.parametrize("w", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("name", ["toy_model", "guided_model"])
def test_turbo_edit_with_equal_prompts_gives_the_image_whatever_w_is(name: str, w: float, request: Any) -> None:
    """Also where the network takes a guidance scale: w is the weight of the target against the source, and no input."""
    model, latents = request.getfixturevalue(name), clean()
    result = turbo_edit(task(model, shifted(model, latents), SOURCE), w=w, max_rms=None)
    torch.testing.assert_close(result.latents[1], latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.latents[0], latents, atol=0.0, rtol=0.0)


def test_turbo_edit_takes_maps_that_were_asked_for_with_guidance(toy_model: Any) -> None:
    """The inversion never has any, so that a scale it was given is no reason to refuse it."""
    found, guided = shifted(toy_model, clean()), replace(shifted(toy_model, clean()), guidance_scale=2.0, prompt=SOURCE)
    edits = [turbo_edit(task(toy_model, each)).latents for each in (found, guided)]
    torch.testing.assert_close(*edits, atol=0.0, rtol=0.0)
    with pytest.raises(InversionError, match="was made with the prompt 'a fox'"):
        turbo_edit(task(toy_model, replace(guided, prompt="a fox")))


def test_turbo_edit_says_where_its_steps_are_too_few(toy_model: Any) -> None:
    """One step of an SD-Turbo starts at the image itself, told that it is noise."""
    one = InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), timesteps=(999,))
    (note,) = turbo_edit(task(toy_model, shifted_edit_friendly(one))).notes
    assert note.startswith("1 of 1 steps is run, from the image without noise")
    assert turbo_edit(task(toy_model, shifted(toy_model, clean()))).notes == ()


def test_turbo_edit_without_shift_and_w_is_edit_friendly(toy_model: Any) -> None:
    latents, noise = clean(), drawn(4, 1, 4, 8, 8)
    maps = shifted_edit_friendly(inverting(toy_model, latents), noise=noise, strength=1.0, shift=0.0)
    ours = turbo_edit(task(toy_model, maps), w=1.0, max_rms=None)
    scaled = edit_friendly_inversion(inverting(toy_model, latents), noise=noise)
    theirs = edit_friendly(task(toy_model, scaled, source_guidance_scale=1.0), strength=1.0)
    torch.testing.assert_close(ours.latents[1], theirs.latents[1], atol=1e-4, rtol=1e-4)


def test_the_bound_of_the_last_map_holds_for_each_image(toy_model: Any) -> None:
    """A batch is bounded as its images are alone."""
    latents = torch.cat([clean(), 5.0 * clean()])
    noise = drawn(3, 2, 4, 8, 8)
    found = shifted_edit_friendly(inverting(toy_model, latents), noise=noise, strength=1.0)
    together = turbo_edit(task(toy_model, found), max_rms=0.05).latents[1]
    unbounded = turbo_edit(task(toy_model, found), max_rms=None).latents[1]
    assert float((together - unbounded).norm()) > 0.1
    for k in range(2):
        one = shifted_edit_friendly(inverting(toy_model, latents[[k]]), noise=noise[:, [k]], strength=1.0)
        alone = turbo_edit(task(toy_model, one), max_rms=0.05).latents[1]
        torch.testing.assert_close(together[[k]], alone, atol=1e-4, rtol=1e-4)


def test_turbo_edit_refuses_maps_of_other_levels(toy_model: Any) -> None:
    found = edit_friendly_inversion(inverting(toy_model, clean()), noise=drawn(4, 1, 4, 8, 8))
    with pytest.raises(InversionError, match="has no maps of shifted latents: invert with shifted-edit-friendly"):
        turbo_edit(task(toy_model, found))


def test_shifted_inversions_are_kept_in_files(toy_model: Any, tmp_path: Any) -> None:
    found = shifted(toy_model, clean())
    again = Inversion.load(found.save(tmp_path / "maps.safetensors"))
    assert again.unscaled_maps
    assert again.fingerprint == found.fingerprint
    edits = [turbo_edit(task(toy_model, each)).latents for each in (found, again)]
    torch.testing.assert_close(*edits, atol=0.0, rtol=0.0)


def test_one_step_of_virtual_inversion_is_a_move_by_delta_denoising(toy_model: Any) -> None:
    """Virtual inversion is Delta Denoising Score at the rate n / s."""
    latents, noise = clean(), drawn(1, 1, 4, 8, 8)
    source = Inversion("picture", noise[0], (599,), trajectory=latents[None])
    level = toy_model.schedule.level(599)
    one = virtual_inversion(task(toy_model, source), noise=noise).latents[1]
    rate = level.noise / level.signal
    other = delta_denoising(task(toy_model, source), noise=noise, times=[599], rate=rate).latents[1]
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_delta_denoising_at_edit_friendly_rates_is_edit_friendly() -> None:
    """On a flow, too, whose first level holds no signal: there the rate on predicted noise was a division by zero."""
    flow = short_sd3()
    latents = torch.randn(1, flow.latent_channels, 4, 6, generator=torch.Generator().manual_seed(0))
    times = flow.schedule.timesteps(4, latent_size=(4, 6))
    assert flow.schedule.level(times[0]).signal == 0.0
    one = task(flow, Inversion("picture", latents, (times[1],), trajectory=latents[None]))
    inverting = InversionTask(flow, latents, flow.encode_prompt(SOURCE), timesteps=(times[1],))
    noise = drawn(1, *latents.shape)
    maps = shifted_edit_friendly(inverting, noise=noise, strength=1.0, shift=0.0)
    ours = delta_denoising(one, noise=noise, rates="edit-friendly").latents[1]
    theirs = turbo_edit(task(flow, maps), w=1.0, max_rms=None).latents[1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    whole = task(flow, Inversion("picture", latents, tuple(times), trajectory=latents[None]))
    edited = delta_denoising(whole, rates="edit-friendly").latents[1]
    assert bool(torch.isfinite(edited).all())
    assert float((edited - latents).abs().max()) > 1e-3


@pytest.mark.parametrize("edit", [flowedit, virtual_inversion])
def test_the_source_is_guided_where_the_edit_is(edit: Any, toy_model: Any) -> None:
    """Equal prompts at equal guidance change nothing, in whichever steps they are guided."""
    latents = clean()
    given = task(toy_model, of_image(latents), SOURCE, guidance_scale=3.0, guidance_interval=(0.5, 1.0))
    before = toy_model.evaluations
    edited = edit(given, strength=1.0, source_guidance=3.0).latents[1]
    torch.testing.assert_close(edited, latents, atol=1e-4, rtol=1e-4)
    assert toy_model.evaluations - before == 2 * 2 + 2 * 4


def test_flowedit_on_a_few_step_model_guides_neither_prompt(toy_model: Any, guided_model: Any) -> None:
    """Guidance is part of such a network; one that takes it as an input is given the paper's."""
    few = copy.copy(toy_model)
    few.few_steps = True

    def edited(model: Any, **options: Any) -> Tensor:
        return flowedit(task(model, of_image(clean())), **options).latents[1]

    assert torch.equal(edited(few), edited(toy_model, source_guidance=1.0))
    assert torch.equal(edited(toy_model), edited(toy_model, source_guidance=1.5))
    guided = copy.copy(guided_model)
    guided.few_steps = True
    assert torch.equal(edited(guided), edited(guided, source_guidance=1.5))


def test_steps_of_chord_edit_go_down(toy_model: Any) -> None:
    with pytest.raises(UsageError, match=r"go from t_start down to t_end: t_end must be at most 0\.2, got 0\.3"):
        chord_edit(task(toy_model, of_image(clean())), t_start=0.2, num_edit_steps=2)
    chord_edit(task(toy_model, of_image(clean())), t_start=0.2)


@pytest.mark.parametrize("name", list(WITHOUT_INVERSION))
def test_outside_a_mask_the_image_stays(toy_model: Any, name: str) -> None:
    edit, options = WITHOUT_INVERSION[name]
    latents, weight = clean(), torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 1.0
    source = of_image(latents)
    hook = KeepOutside(weight, latents, source, 1)
    result = edit(task(toy_model, source, mask=hook.inside, on_step=[hook]), **options).latents[1]
    torch.testing.assert_close(result[..., 4:], latents[..., 4:], atol=0.0, rtol=0.0)
    assert float((result[..., :4] - latents[..., :4]).abs().max()) > 1e-3


def test_predictions_of_several_levels_are_those_of_single_calls(toy_model: Any) -> None:
    latents, noise = clean(2), drawn(2, 4, 8, 8)
    given = task(toy_model, of_image(latents), guidance_scale=3.0)
    edited = 1.1 * latents[None]
    times = [[899.0, 799.0], [749.0, 599.0]]
    both = Differences(given, levels=2)(latents[None], edited, noise, times)
    for pair, time in zip(both, times, strict=True):
        (alone,) = Differences(given)(latents[None], edited, noise, [time])
        torch.testing.assert_close(pair.clean, alone.clean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pair.noise, alone.noise, atol=1e-4, rtol=1e-4)
        for k in range(2):
            one = task(toy_model, of_image(latents[[k]]), guidance_scale=3.0)
            (single,) = Differences(one)(latents[None, [k]], edited[:, [k]], noise[[k]], [[time[k]]])
            torch.testing.assert_close(pair.clean[:, [k]], single.clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "guidance", "options", "evaluations"),
    [
        ("chord-edit", 1.0, {}, 5),
        ("chord-edit", 1.0, {"cleanup": False}, 4),
        ("chord-edit", 1.0, {"num_edit_steps": 2, "noise_samples": 3}, 2 * 3 * 4 + 1),
        ("virtual-inversion", 1.0, {}, 8),
        ("virtual-inversion", 2.0, {}, 12),
        ("virtual-inversion", 2.0, {"source_guidance": 1.5}, 16),
        ("virtual-inversion", 1.0, {"strength": 0.5}, 4),
        ("delta-denoising", 1.0, {"iterations": 3}, 6),
        ("delta-denoising", 7.5, {"iterations": 3}, 9),
    ],
)
def test_costs_are_what_is_said(
    toy_model: Any, name: str, guidance: float, options: dict[str, Any], evaluations: int
) -> None:
    edit = {"chord-edit": chord_edit, "virtual-inversion": virtual_inversion, "delta-denoising": delta_denoising}[name]
    before = toy_model.evaluations
    edit(task(toy_model, of_image(clean()), guidance_scale=guidance), **options)
    assert toy_model.evaluations - before == evaluations


def test_turbo_edit_costs_one_row_a_step_at_w_1(toy_model: Any) -> None:
    found = shifted(toy_model, clean())
    costs = []
    for w in (1.0, 1.5):
        before = toy_model.evaluations
        turbo_edit(task(toy_model, found), w=w)
        costs.append(toy_model.evaluations - before)
    assert costs == [4, 8]


def test_several_targets_are_those_of_single_runs(toy_model: Any) -> None:
    latents, others = clean(), [TARGET, "a photo of a fox"]
    for edit, options in WITHOUT_INVERSION.values():
        both = EditTask(
            toy_model, of_image(latents), SOURCE, others, guidance_scale=2.0, generator=torch.Generator().manual_seed(3)
        )
        together = edit(both, **options).latents
        for k, target in enumerate(others):
            alone = edit(task(toy_model, of_image(latents), target, guidance_scale=2.0), **options).latents
            torch.testing.assert_close(together[k + 1], alone[1], atol=1e-4, rtol=1e-4)


def back(model: Any, found: Inversion) -> Tensor:
    branch = Branch(model.encode_prompt(SOURCE))
    return sample(model, found.noise, {"source": branch}, timesteps=found.timesteps, eta=found.eta, replay=found)[0]


def test_renoising_brings_the_image_back_more_closely(toy_model: Any) -> None:
    """In short steps, where the iteration settles, each further one helps; DDIM inversion is the first result alone."""
    latents = clean()
    short = InversionTask(toy_model, latents, toy_model.encode_prompt(SOURCE), timesteps=range(201, 1, -20))
    errors = [float((back(toy_model, ddim_inversion(short)) - latents).norm())]
    for again in (1, 4):
        found = renoise(short, renoising_steps=again, average=1)
        errors.append(float((back(toy_model, found) - latents).norm()))
    assert errors[2] < errors[1] < errors[0]


def test_corrected_draws_follow_the_inverted_path(toy_model: Any) -> None:
    latents, noise = clean(), drawn(4, 1, 4, 8, 8)
    found = renoise(inverting(toy_model, latents), noise=noise, eta=1.0)
    assert found.trajectory is not None
    path = list(found.trajectory.flip(0)[1:])

    def keep(given: Tensor, step: Any) -> Tensor:
        torch.testing.assert_close(given[0], path[step.index], atol=1e-3, rtol=1e-3)
        return given

    branch = Branch(toy_model.encode_prompt(SOURCE))
    sample(
        toy_model, found.noise, {"source": branch}, timesteps=GRID, eta=1.0, replay=found, on_step=[keep]
    )  # fmt: skip
    loose = renoise(inverting(toy_model, latents), noise=noise, eta=1.0, correct_noise=False)
    assert float((back(toy_model, loose) - latents).norm()) > 2 * float((back(toy_model, found) - latents).norm())


def test_draws_of_another_shape_are_refused(toy_model: Any) -> None:
    latents, wrong = clean(), drawn(9, 1, 4, 8, 8)
    with pytest.raises(UsageError, match=r"one draw a sample, got \(9, 1, 4, 8, 8\)"):
        chord_edit(task(toy_model, of_image(latents)), noise=wrong)
    with pytest.raises(UsageError, match="one draw an iteration"):
        delta_denoising(task(toy_model, of_image(latents)), noise=wrong, iterations=3)
    with pytest.raises(UsageError, match="one draw a level that holds noise"):
        shifted_edit_friendly(inverting(toy_model, latents), noise=wrong)
    with pytest.raises(UsageError, match="one draw a step"):
        renoise(inverting(toy_model, latents), noise=wrong, eta=1.0)


def consistency_model(model: Any, distilled: int) -> Any:
    """The model with the schedule of a latent consistency model, its networks shared."""
    few = copy.copy(model)
    few.schedule = replace(
        model.schedule, spacing="lcm", original_inference_steps=distilled, final_alpha_bar=1.0, clip_sample_range=None
    )
    return few


def test_sdedit_runs_a_consistency_model_as_diffusers_does(toy_model: Any) -> None:
    few, draws = consistency_model(toy_model, 50), drawn(5, 1, 4, 8, 8)
    source = Inversion("picture", drawn(1, 4, 8, 8), tuple(few.schedule.timesteps(4)), trajectory=clean()[None])
    edited = sdedit(task(few, source), strength=0.5, noise=draws).latents[1]
    scheduler = diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(4, original_inference_steps=50, strength=0.5)
    latents, condition = scheduler.add_noise(clean(), draws[0], scheduler.timesteps[:1]), few.encode_prompt(TARGET)
    for k, t in enumerate(scheduler.timesteps):
        output = few.predict(latents, float(t), condition)
        _, denoised = scheduler.step(output, t, latents, generator=torch.Generator(), return_dict=False)
        last = k + 1 == len(scheduler.timesteps)
        latents = denoised if last else scheduler.add_noise(denoised, draws[k + 1], scheduler.timesteps[[k + 1]])
    assert [int(t) for t in scheduler.timesteps] == [499, 379, 259, 139]
    torch.testing.assert_close(edited, latents, rtol=0.0, atol=1e-4)


def test_virtual_inversion_runs_all_steps_of_a_consistency_model_below_the_noise(toy_model: Any) -> None:
    few = consistency_model(toy_model, 50)
    source = Inversion("picture", drawn(1, 4, 8, 8), tuple(few.schedule.timesteps(4)), trajectory=clean()[None])
    given, times = task(few, source), list[float]()

    def seen(latents: Tensor, step: Any) -> Tensor:
        times.append(step.time)
        return latents

    virtual_inversion(replace(given, on_step=[seen]), strength=0.5)
    assert times == [499, 379, 259, 139]
    (note,) = virtual_inversion(given, strength=0.04).notes
    assert note == "the model was distilled at 2 timesteps below strength=0.04: 2 of 4 steps are run"
    times.clear()
    virtual_inversion(task(toy_model, of_image(clean()), on_step=[seen]), strength=0.5)
    assert times == [399, 199]


def test_sdedit_counts_timesteps_as_the_schedule_does(toy_model: Any) -> None:
    """50 times 0.58 is a little below 29 in floating point: one of the two took 29, the other 28."""
    few = consistency_model(toy_model, 50)
    source = Inversion("picture", drawn(1, 4, 8, 8), tuple(few.schedule.timesteps(40)), trajectory=clean()[None])
    done = sdedit(task(few, source), strength=0.58)
    assert done.notes == ("the model was distilled at 29 timesteps below strength=0.58: 29 of 40 steps are run",)


def test_sdedit_runs_no_more_steps_than_a_model_was_distilled_at(toy_model: Any) -> None:
    few = consistency_model(toy_model, 8)
    source = Inversion("picture", drawn(1, 4, 8, 8), tuple(few.schedule.timesteps(4)), trajectory=clean()[None])
    before = few.evaluations
    done = sdedit(task(few, source), strength=0.3)
    assert few.evaluations - before == 2
    assert done.notes == ("the model was distilled at 2 timesteps below strength=0.3: 2 of 4 steps are run",)
    assert torch.equal(sdedit(task(few, source), strength=0.0).latents[1], clean())
