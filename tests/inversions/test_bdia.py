"""BDIA: exact to rounding at any guidance, second-order accurate, and played back by the sampling loop."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.bdia import bdia_inversion
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by
from tests.gaussian import GaussianModel, cosine_schedule
from tests.inversions.test_deterministic import MODELS, SOURCE, clean
from tests.toy import toy_sd_pipeline

TARGET = "a photo of a dog on the house"


@pytest.fixture(scope="module")
def double_model() -> Any:
    """The toy model computing in float64."""
    pipeline = toy_sd_pipeline().to(torch.float64)
    return StableDiffusion.from_pipeline(pipeline, name="toy-64", revision="toy-64")


def replay(model: Any, found: Inversion, prompt: str = SOURCE, scale: float = 1.0, **options: Any) -> Tensor:
    branch = {"source": Branch(model.encode_prompt(prompt), guidance_scale=scale)}
    return sample(model, found.noise, branch, timesteps=found.timesteps, replay=found, **options)[0]


@pytest.mark.parametrize(("gamma", "scale"), [(None, 1.0), (1.0, 3.0), (0.8, 1.0)])
def test_the_round_trip_is_exact_in_float64(double_model: Any, gamma: float | None, scale: float) -> None:
    latents, condition = clean(2).double(), double_model.encode_prompt(SOURCE)
    found = bdia_inversion(
        InversionTask(double_model, latents, condition, guidance_scale=scale, num_inference_steps=6), gamma=gamma
    )
    assert found.noise.dtype == torch.float64
    assert float((replay(double_model, found, scale=scale) - latents).abs().max()) < 1e-11
    plain = ddim_inversion(InversionTask(double_model, latents, condition, num_inference_steps=6))
    assert float((replay(double_model, plain, scale=scale) - latents).abs().max()) > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_the_round_trip_in_float32(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    found = bdia_inversion(InversionTask(model, clean(), model.encode_prompt(SOURCE), num_inference_steps=5))
    assert float((replay(model, found) - clean()).norm() / clean().norm()) < 1e-3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_and_any_grid(prediction: Any) -> None:
    """A bound on |x0_pred| too: the step stays invertible."""
    final = float(cosine_schedule().alphas_cumprod[0])
    schedule = cosine_schedule(prediction_type=prediction, clip_sample_range=1.0, final_alpha_bar=final)
    model = GaussianModel(schedule)
    latents = model.mean + model.std * clean(2)[:, :1, :4, :4].double()
    found = bdia_inversion(
        InversionTask(model, latents, model.encode_prompt("x"), timesteps=[4000, 2500, 2400, 900, 100])
    )
    assert float((replay(model, found, "x") - latents).abs().max()) < 1e-12


def test_it_is_nearer_to_the_exact_flow_than_ddim() -> None:
    schedule = cosine_schedule(final_alpha_bar=float(cosine_schedule().alphas_cumprod[0]))
    model = GaussianModel(schedule)
    latents = model.mean + model.std * clean(2)[:, :1, :4, :4].double()
    exact = model.flow(latents, schedule.final_alpha_bar, schedule.steps(64)[0].level)
    task = InversionTask(model, latents, model.encode_prompt("x"), num_inference_steps=64)
    bdia, ddim = bdia_inversion(task, gamma=1.0), ddim_inversion(task)
    assert float((bdia.noise - exact).abs().max()) < 0.5 * float((ddim.noise - exact).abs().max())


def test_the_source_of_an_edit_comes_back_exactly(double_model: Any) -> None:
    """Beside an edited branch under attention control, in the same rows."""
    latents = clean().double()
    found = bdia_inversion(
        InversionTask(double_model, latents, double_model.encode_prompt(SOURCE), num_inference_steps=6)
    )
    options: dict[str, Any] = {"source_prompt": SOURCE, "guidance_scale": 3.0, "source_guidance_scale": 1.0}
    edited = edit_by(prompt_to_prompt, double_model, found, target_prompts=[TARGET], **options)
    assert float((edited.latents[0] - latents).abs().max()) < 1e-10
    assert not torch.allclose(edited.latents[1], latents, atol=1e-2)
    same = edit_by(prompt_to_prompt, double_model, found, target_prompts=[SOURCE], **options | {"guidance_scale": 1.0})
    assert float((same.latents[1] - latents).abs().max()) < 1e-10  # the correction of the first step is shared


def test_runs_can_be_repeated(toy_model: Any) -> None:
    """The rule remembers one step; a run that broke must not leave its memory to the next."""
    found = bdia_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    first = replay(toy_model, found)

    def explode(latents: Tensor, step: Any) -> Tensor:
        if step.index == 2:
            raise RuntimeError("on purpose")
        return latents

    with pytest.raises(RuntimeError, match="on purpose"):
        replay(toy_model, found, on_step=[explode])
    assert torch.equal(replay(toy_model, found), first)


def test_the_global_generator_is_left_alone(toy_model: Any) -> None:
    found = bdia_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=3))
    state = torch.get_rng_state()
    replay(toy_model, found)
    assert torch.equal(torch.get_rng_state(), state)


def test_runs_that_it_cannot_be_replayed_by_are_refused(toy_model: Any) -> None:
    condition = toy_model.encode_prompt(SOURCE)
    found = bdia_inversion(InversionTask(toy_model, clean(), condition, num_inference_steps=4))
    before = toy_model.evaluations
    with pytest.raises(InversionError, match="from its first step on, not from step 3"):
        replay(toy_model, found, start_index=2)
    with pytest.raises(UsageError, match="its own stepper"):
        replay(toy_model, found, eta=0.5)
    with pytest.raises(UsageError, match=r"gamma must be in \(0, 1\], got 0"):
        bdia_inversion(InversionTask(toy_model, clean(), condition, num_inference_steps=4), gamma=0.0)
    assert toy_model.evaluations == before
