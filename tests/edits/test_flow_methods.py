"""Methods for flows: identities, what a mask keeps, batches, and that models are left as they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.dnaedit import dnaedit
from sfumato.edits.flowalign import flowalign
from sfumato.edits.flowedit import flowedit
from sfumato.edits.kv_edit import kv_edit
from sfumato.edits.method import METHODS
from sfumato.edits.rf_edit import rf_edit
from sfumato.edits.rf_inversion import rf_inversion as rf_inversion_edit
from sfumato.edits.stable_flow import stable_flow, vital
from sfumato.edits.task import EditTask
from sfumato.edits.uniedit_flow import uniedit_flow, where
from sfumato.errors import ModelError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.fireflow import fireflow_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.rf_inversion import rf_inversion
from sfumato.inversions.rf_solver import rf_solver_inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.uni_inv import uni_inv
from tests.toy_flow import short_flux, short_sd3, toy_flux_pipeline

STEPS = 4
CAT, DOG = "a photo of a cat", "a photo of a dog"


@pytest.fixture(scope="module")
def flux() -> Any:
    return short_flux()


@pytest.fixture(scope="module")
def sd3() -> Any:
    return short_sd3()


@pytest.fixture(params=["flux", "sd3"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def latents(model: Any, images: int = 1) -> Tensor:
    return torch.randn(images, model.latent_channels, 4, 6, generator=torch.Generator().manual_seed(7))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def grid(model: Any) -> tuple[float, ...]:
    return tuple(model.schedule.timesteps(STEPS, latent_size=(4, 6)))


def from_image(model: Any, clean: Tensor, target: str = DOG, *, seeds: Any = (0,), **more: Any) -> EditTask:
    noise = torch.cat([torch.randn(1, *clean.shape[1:], generator=g) for g in generators(*seeds)])
    source = Inversion("picture", noise, grid(model), trajectory=clean[None])
    options = {"guidance_scale": 3.0, "generator": generators(*seeds), **more}
    return EditTask(model, source, CAT, [target], **options)


def inverted(model: Any, clean: Tensor, invert: Any = ddim_inversion, prompt: str = CAT, **options: Any) -> Inversion:
    task = InversionTask(
        model, clean, model.encode_prompt(prompt), num_inference_steps=STEPS,
        generator=generators(*range(len(clean))),
    )  # fmt: skip
    return invert(task, **options)  # type: ignore[no-any-return]


def from_inversion(model: Any, source: Inversion, target: str = DOG, **more: Any) -> EditTask:
    return EditTask(model, source, CAT, [target], **{"guidance_scale": 3.0, **more})


def test_equal_prompts_at_equal_guidance_change_nothing(model: Any) -> None:
    """Up to what two equal rows of one network call differ by."""
    clean = latents(model)
    same = flowedit(from_image(model, clean, CAT), strength=1.0, source_guidance=3.0).latents[1]
    torch.testing.assert_close(same, clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(flowalign(from_image(model, clean, CAT)).latents[1], clean, atol=1e-5, rtol=0)
    changed = flowedit(from_image(model, clean), strength=1.0, source_guidance=3.0).latents[1]
    assert float((changed - clean).abs().max()) > 1e-2


def test_flowedit_serves_a_diffusion_alike(toy_model: Any) -> None:
    clean = latents(toy_model)
    task = from_image(toy_model, clean, CAT)
    same = flowedit(task, strength=0.5, source_guidance=3.0).latents[1]
    torch.testing.assert_close(same, clean, atol=1e-5, rtol=0)
    assert not torch.equal(flowedit(from_image(toy_model, clean)).latents[1], clean)


@pytest.mark.parametrize("method", [flowedit, flowalign])
def test_outside_the_mask_the_image_stays(model: Any, method: Any) -> None:
    clean, mask = latents(model), torch.zeros(1, 1, 4, 6)
    mask[..., :2, :] = 1.0
    edited = method(from_image(model, clean, mask=mask), strength=1.0).latents[1]
    assert torch.equal(edited[..., 2:, :], clean[..., 2:, :])
    assert not torch.equal(edited[..., :2, :], clean[..., :2, :])


def test_a_plain_end_of_no_step_is_said(toy_model: Any) -> None:
    done = flowedit(from_image(toy_model, latents(toy_model)), plain_end=0.2)
    less = "plain_end=0.2 of 4 steps is less than one step, so it does nothing"
    assert done.notes == (f"{less}: use 0.25 or more, or more steps",)


def test_a_run_of_no_steps_gives_the_image_back(model: Any) -> None:
    clean = latents(model)
    for method in (flowedit, flowalign, dnaedit):
        assert torch.equal(method(from_image(model, clean), strength=0.0).latents[1], clean)
    source = inverted(model, clean)
    mask = torch.ones(1, 1, 4, 6)
    assert torch.equal(uniedit_flow(from_inversion(model, source), strength=0.0).latents[1], clean)
    assert torch.equal(kv_edit(from_inversion(model, source, mask=mask), strength=0.0).latents[1], clean)


def test_rf_inversion_leads_all_the_way_to_the_noise_and_to_the_image(model: Any) -> None:
    clean, noise = latents(model), torch.randn(1, 16, 4, 6)
    there = inverted(model, clean, rf_inversion, gamma=1.0, noise=noise)
    torch.testing.assert_close(there.noise, noise, atol=1e-5, rtol=1e-5)
    half = inverted(model, clean, rf_inversion, noise=noise)
    back = rf_inversion_edit(from_inversion(model, half), eta=1.0, window=(0.0, 1.0)).latents[1]
    torch.testing.assert_close(back, clean, atol=1e-5, rtol=1e-5)


def test_the_solver_of_an_inversion_is_that_of_its_replay(model: Any) -> None:
    """So the reconstruction is closer than with Euler's steps from the same noise."""
    clean = 0.3 * latents(model)
    for invert in (rf_solver_inversion, fireflow_inversion):
        source = inverted(model, clean, invert)
        task = from_inversion(model, source, CAT, guidance_scale=1.0)
        errors = [float((task.sample(replay=replay)[1] - clean).norm()) for replay in (source, None)]
        assert errors[0] < 0.5 * errors[1]


def test_uniedit_with_equal_prompts_reconstructs(model: Any) -> None:
    clean = 0.3 * latents(model)
    edited = uniedit_flow(from_inversion(model, inverted(model, clean, uni_inv), CAT), strength=1.0).latents[1]
    plain = uniedit_flow(from_inversion(model, inverted(model, clean), CAT), strength=1.0).latents[1]
    assert float((edited - clean).norm()) < float((plain - clean).norm())


def test_uni_inv_ends_where_the_edit_starts(model: Any) -> None:
    source = inverted(model, latents(model), uni_inv, share=0.5)
    assert source.trajectory is not None
    assert (source.start_index, len(source.trajectory)) == (STEPS // 2, 1 + STEPS // 2)
    whole = inverted(model, latents(model), uni_inv)
    assert torch.equal(source.noise, whole.latents_at(STEPS // 2))


def test_a_mask_of_a_difference() -> None:
    difference = torch.zeros(1, 1, 4, 4, 4)
    assert torch.equal(where(difference, tokens=True, signed=False), torch.zeros(1, 1, 1, 4, 4))  # 0 / 0 it is not
    difference[..., 0, 3] = -2.0
    difference[..., 3, 0] = 1.0
    mask = where(difference, tokens=False, signed=False)[0, 0, 0]
    assert (float(mask[0, 3]), float(mask[3, 0]), float(mask[1, 1])) == (1.0, 0.5, 0.0)
    tokens = where(difference, tokens=True, signed=False)[0, 0, 0]
    assert (tokens[:2, 2:] == 1.0).all()
    assert float(where(difference, tokens=False, signed=True)[0, 0, 0, 0, 3]) == 0.0


def test_kv_edit_keeps_the_background_exactly_and_needs_a_mask(model: Any) -> None:
    source, mask = inverted(model, latents(model)), torch.zeros(1, 1, 4, 6)
    mask[..., 1:3, 1:3] = 1.0
    edited = kv_edit(from_inversion(model, source, mask=mask), strength=1.0).latents[1]
    outside = mask.expand_as(edited) < 0.5
    assert torch.equal(edited[outside], source.clean[outside])
    assert not torch.equal(edited[~outside], source.clean[~outside])
    with pytest.raises(UsageError, match="inside of a mask alone: give one"):
        kv_edit(from_inversion(model, source))


def test_what_is_inside_reads_the_sources_background(model: Any) -> None:
    """Another background changes the edit's inside, though the latents inside are the same at the start."""
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., :2, :2] = 1.0
    clean = latents(model)
    other = torch.where(mask > 0.5, clean, clean.flip(0, 1))
    results = []
    for image in (clean, other):
        source = inverted(model, image)
        noise = torch.where(mask > 0.5, inverted(model, clean).noise, source.noise)
        trajectory = torch.stack([*source.trajectory[:-1], noise])  # type: ignore[index]
        same_inside = Inversion("ddim", noise, source.timesteps, trajectory=trajectory)
        results.append(kv_edit(from_inversion(model, same_inside, mask=mask), strength=1.0).latents[1][..., :2, :2])
    assert not torch.allclose(results[0], results[1])


def test_stable_flow_with_equal_prompts_keeps_the_source(model: Any) -> None:
    source = inverted(model, latents(model))
    task = from_inversion(model, source, CAT, guidance_scale=1.0)
    latents_of = stable_flow(task, pin_source=False).latents
    torch.testing.assert_close(latents_of[0], latents_of[1], atol=1e-5, rtol=1e-5)


def test_the_vital_layers_of_flux_are_those_of_the_paper() -> None:
    assert vital(57) == [0, 1, 17, 18, 25, 28, 53, 54, 56]
    assert vital(3) == [0, 1, 2]


def test_sharing_values_acts_and_leaves_the_model_as_it_was(model: Any) -> None:
    source = inverted(model, latents(model), fireflow_inversion)
    before = model.predict(source.noise, 500.0, model.encode_prompt(DOG))
    plain = rf_edit(from_inversion(model, source), shared_steps=0.0).latents[1]
    shared = rf_edit(from_inversion(model, source), shared_steps=0.5, shared_layers=(0.0, 1.0)).latents[1]
    assert not torch.allclose(plain, shared)
    with pytest.raises(ModelError, match="no attention layer"):
        rf_edit(from_inversion(model, source), shared_layers=(0.9, 0.95))

    def explode(latents: Tensor, step: Any) -> Tensor:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        rf_edit(from_inversion(model, source, on_step=[explode]), shared_steps=1.0)
    assert torch.equal(model.predict(source.noise, 500.0, model.encode_prompt(DOG)), before)


@pytest.mark.parametrize("method", [flowedit, flowalign, dnaedit])
def test_a_batch_from_images_gives_what_single_runs_give(model: Any, method: Any) -> None:
    clean = latents(model, 2)
    both = method(from_image(model, clean, seeds=(3, 4)), strength=1.0).latents[1]
    for k, seed in enumerate((3, 4)):
        single = method(from_image(model, clean[[k]], seeds=(seed,)), strength=1.0).latents[1]
        torch.testing.assert_close(both[[k]], single, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("method", "invert"),
    [
        (rf_edit, rf_solver_inversion),
        (rf_edit, fireflow_inversion),
        (uniedit_flow, uni_inv),
        (stable_flow, ddim_inversion),
    ],
)
def test_a_batch_from_inversions_gives_what_single_runs_give(model: Any, method: Any, invert: Any) -> None:
    clean = latents(model, 2)
    both = method(from_inversion(model, inverted(model, clean, invert))).latents[1]
    for k in range(2):
        single = method(from_inversion(model, inverted(model, clean[[k]], invert))).latents[1]
        torch.testing.assert_close(both[[k]], single, atol=2e-4, rtol=2e-4)


def test_draws_that_are_too_few_are_named(model: Any) -> None:
    clean = latents(model)
    with pytest.raises(UsageError, match="holds 1 draws, and the run takes more"):
        flowedit(from_image(model, clean), strength=1.0, noise=torch.zeros(1, *clean.shape))
    with pytest.raises(UsageError, match="one draw for each of 4 steps, got 1"):
        flowalign(from_image(model, clean), noise=torch.zeros(1, *clean.shape))


def test_an_edit_costs_what_it_says(flux: Any, sd3: Any) -> None:
    clean, counts = latents(flux), {}
    for model in (flux, sd3):
        for method in (flowedit, flowalign, dnaedit):
            before = model.evaluations
            method(from_image(model, clean), strength=1.0)
            counts[model is flux, method.__name__] = (model.evaluations - before) / STEPS
    assert counts == {
        (True, "flowedit"): 2, (True, "flowalign"): 3, (True, "dnaedit"): 2,
        (False, "flowedit"): 4, (False, "flowalign"): 3, (False, "dnaedit"): 3,
    }  # fmt: skip


def test_models_bring_the_settings_of_the_methods_authors(flux: Any, sd3: Any) -> None:
    for model in (flux, sd3):
        for name, options in model.method_options.items():
            METHODS[name].check_options(options)
        assert set(model.method_guidance) <= set(METHODS)
    assert flux.method_guidance["flowedit"] == 5.5
    assert sd3.method_guidance["flowedit"] == 13.5


def test_a_folder_is_edited_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from tests.command import invoke

    monkeypatch.chdir(tmp_path)
    toy_flux_pipeline().save_pretrained("flux")
    Image.new("RGB", (64, 48), (200, 30, 30)).save("red.png")
    prompts = ("--source", CAT, "--target", DOG, "--steps", 4, "--model", "flux", "--device", "cpu")
    made = invoke("edit", "red.png", *prompts, "--method", "flowedit", "-o", "edited.png")
    assert made.exit_code == 0, made.output
    with Image.open("edited.png") as image:
        assert image.size == (64, 48)
    again = invoke("edit", "--like", "edited.png", "--model", "flux", "--device", "cpu", "-o", "again.png")
    assert again.exit_code == 0, again.output
    with Image.open("edited.png") as one, Image.open("again.png") as other:
        assert one.tobytes() == other.tobytes()
