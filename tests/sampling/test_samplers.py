"""Samplers against diffusers' schedulers on the same network outputs, and on data whose paths are known."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.rectified_flow import RectifiedFlow
from sfumato.sampling.dpm_solver import DPMSolverPP
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.samplers import SAMPLERS, stepper_of
from tests.gaussian import GaussianModel, cosine_schedule

CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def output(latents: Tensor, t: float) -> Tensor:
    """A stand-in for a network: smooth in latents and time."""
    return torch.sin(latents + 0.01 * t) + 0.1 * latents


def walked(schedule: DiscreteVP, name: str, count: int, noise: Tensor, draws: Tensor) -> list[Tensor]:
    """Latents after each step."""
    steps = schedule.steps(count)
    stepper, latents, found = stepper_of(name, schedule), noise, []
    state = stepper.init(latents, steps[0])
    for step, z in zip(steps, draws, strict=True):
        prediction = schedule.split(output(latents, step.time), latents, step.level)
        latents, state = stepper.step(latents, prediction, step, state, z if stepper.stochastic(step) else None)
        found.append(latents)
    return found


@pytest.mark.parametrize("own", ["DPMSolverMultistepScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("count", [1, 2, 4, 20])
def test_dpm_solver_is_that_of_diffusers(count: int, own: str) -> None:
    """Also on a model whose own scheduler ends at the level of timestep 0, as Stable Diffusion's."""
    config = {**CONFIG, "timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": False}
    config["_class_name"] = own
    theirs = diffusers.DPMSolverMultistepScheduler(
        **CONFIG, timestep_spacing="trailing", algorithm_type="dpmsolver++", solver_order=2
    )
    theirs.set_timesteps(count)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents, wanted = noise, []
    for t in theirs.timesteps:
        latents = theirs.step(output(latents, float(t)), t, latents).prev_sample
        wanted.append(latents)
    schedule = DiscreteVP.from_config(config)
    assert schedule.timesteps(count) == [int(t) for t in theirs.timesteps]
    found = walked(schedule, "dpm-solver++", count, noise, torch.zeros(count))
    for ours, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, right, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["ddpm", "euler", "euler-ancestral", "dpm-solver++"])
def test_samplers_that_end_at_clean_latents_do_so_on_any_schedule(name: str) -> None:
    schedule = DiscreteVP.from_config({**CONFIG, "set_alpha_to_one": False})
    assert schedule.final_alpha_bar < 1.0
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (step,) = schedule.steps(1)
    clean = schedule.split(output(noise, step.time), noise, step.level).x0
    torch.testing.assert_close(walked(schedule, name, 1, noise, torch.ones(1))[0], clean)
    assert not torch.allclose(walked(schedule, "ddim", 1, noise, torch.ones(1))[0], clean, atol=1e-3)


def test_tcd_goes_to_the_timestep_that_diffusers_goes_to() -> None:
    """0.7 times 350 is a little below 245 in double precision, and is not in theirs."""
    schedule = DiscreteVP.from_config({**CONFIG, "_class_name": "TCDScheduler"})
    first, _ = schedule.steps(timesteps=[700, 350])
    latents, z = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    made = stepper_of("tcd", schedule).step(
        latents, schedule.split(output(latents, 700), latents, first.level), first, None, z
    )[0]
    theirs = diffusers.TCDScheduler(**CONFIG)
    theirs.set_timesteps(timesteps=[700, 350], original_inference_steps=1000)
    right = theirs.step(output(latents, 700), theirs.timesteps[0], latents, eta=0.3, generator=None)
    below = theirs.alphas_cumprod[245]
    kept = right.pred_noised_sample
    ratio = (theirs.alphas_cumprod[350] / below).sqrt()
    torch.testing.assert_close(made, ratio * kept + (1 - ratio**2).sqrt() * z, rtol=1e-4, atol=1e-4)


def end_of(name: str, steps: int) -> Tensor:
    model = GaussianModel(cosine_schedule())
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    branches = {"x": Branch(model.encode_prompt("x"))}
    return sample(model, noise, branches, num_inference_steps=steps, stepper=stepper_of(name, model.schedule))


def test_dpm_solver_is_of_second_order() -> None:
    """Its error falls much faster with the number of steps than DDIM's, and is smaller from the start."""
    right = end_of("ddim", 500)
    errors = {
        name: [float((end_of(name, steps) - right).norm()) for steps in (20, 40)] for name in ("ddim", "dpm-solver++")
    }
    assert errors["dpm-solver++"][0] < errors["ddim"][0] / 3
    assert errors["ddim"][0] / errors["ddim"][1] < 2.8


@pytest.mark.parametrize(("name", "same"), [("euler", "ddim"), ("euler-ancestral", "ddpm")])
def test_one_rule_under_two_names(name: str, same: str) -> None:
    schedule = cosine_schedule()
    assert stepper_of(name, schedule) == stepper_of(same, schedule)


def test_eta_is_for_ddim_alone_and_unknown_names_are_refused() -> None:
    schedule = cosine_schedule()
    with pytest.raises(UsageError, match=r"eta=0\.5 is for the sampler ddim, not lcm"):
        stepper_of("lcm", schedule, eta=0.5)
    with pytest.raises(UsageError, match="dpm-solver"):
        stepper_of("dpm-solver", schedule)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_draws_and_ends_in_finite_latents(name: str) -> None:
    model = GaussianModel(cosine_schedule())
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(draw: Callable[[], torch.Generator]) -> Tensor:
        return sample(
            model, noise, {"x": Branch(model.encode_prompt("x"))}, num_inference_steps=6,
            stepper=stepper_of(name, model.schedule), generator=draw(),
        )  # fmt: skip

    found = run(lambda: torch.Generator().manual_seed(1))
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, run(lambda: torch.Generator().manual_seed(1)))


def test_a_flow_takes_the_samplers_that_add_no_noise() -> None:
    flow = RectifiedFlow()
    assert stepper_of("dpm-solver++", flow) == DPMSolverPP()
    with pytest.raises(UsageError, match="tcd is not for rectified flows: take one of ddim, euler"):
        stepper_of("tcd", flow)
