"""Timesteps, samplers and guidance of models that were distilled for a few steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.inversions.shifted import shifted_time
from sfumato.models.base import Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import Prediction, Step
from sfumato.sampling.layout import Branch
from sfumato.sampling.lcm import LCM
from sfumato.sampling.loop import sample
from sfumato.sampling.samplers import stepper_of
from sfumato.sampling.stepper import Stepper
from sfumato.sampling.tcd import TCD
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner
from tests.conformance.runners.few_steps import ending_clean
from tests.conformance.stored_sdxl import StoredSDXL

LEVELS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@runner("few-step-schedules", "timesteps")
def timesteps(case: Case, model: Any) -> dict[str, Result]:
    return {request["output"]: torch.tensor(grid_of(request)) for request in case.parameters["requests"]}


def grid_of(request: Mapping[str, Any]) -> Any:
    kind, config = request["schedule"], dict(LEVELS)
    if kind == "trailing":
        config |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
        return DiscreteVP.from_config(config).timesteps(request["num_inference_steps"])
    if kind in ("lcm", "tcd"):
        config |= {
            "_class_name": f"{kind.upper()}Scheduler",
            "original_inference_steps": request["original_inference_steps"],
        }
        return DiscreteVP.from_config(config).timesteps(request["num_inference_steps"], strength=request["strength"])
    if kind == "turbo-edit":
        config |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
        schedule = DiscreteVP.from_config(config)
        steps = schedule.steps(request["trailing_steps"])[request["skipped"] :]
        levels = [shifted_time(step, request["noise_shift_delta"]) for step in steps]
        return [[int(step.time) for step in steps], levels]
    assert kind == "chord", kind
    schedule = DiscreteVP.from_config(config)
    return [schedule.time_at(time) for time in request["times"]]


@runner("few-step-schedules", "lcm-step")
def lcm_step(case: Case, model: Any) -> dict[str, Result]:
    stepper = Denoised(LCM(case.parameters["timestep_scaling"], case.parameters["sigma_data"]))
    schedule = DiscreteVP.from_config({**LEVELS, "_class_name": "LCMScheduler"})
    return {"steps": walked(case, schedule, stepper), "denoised": torch.stack(stepper.found)}


@runner("few-step-schedules", "tcd-step")
def tcd_step(case: Case, model: Any) -> dict[str, Result]:
    schedule = DiscreteVP.from_config({**LEVELS, "_class_name": "TCDScheduler"})
    return {"steps": walked(case, schedule, TCD(schedule, case.parameters["eta"]))}


def walked(case: Case, schedule: DiscreteVP, stepper: Stepper[Any]) -> Tensor:
    """Latents after each step on stored network outputs."""
    schedule = replace(schedule, prediction_type=case.parameters["prediction_type"])
    steps = schedule.steps(timesteps=case.parameters["timesteps"])
    latents, found, state = case.tensors["latents"], [], None
    for step, output in zip(steps, case.tensors["model_outputs"], strict=True):
        z = case.tensors["noises"][step.index] if stepper.stochastic(step) else None
        latents, state = stepper.step(latents, schedule.split(output, latents, step.level), step, state, z)
        found.append(latents)
    return torch.stack(found)


@runner("few-step-schedules", "lcm-sampling")
def lcm_sampling(case: Case, model: Any) -> dict[str, Result]:
    count, scale = case.parameters["num_inference_steps"], case.parameters["guidance_scale"]
    schedule = replace(model.schedule, original_inference_steps=case.parameters["original_inference_steps"])
    condition = model.encode_prompt(case.prompts[0])
    guided = model.with_guidance(condition, torch.tensor([scale]))
    stepper = Denoised(LCM())
    steps = sampled(case, model, schedule.timesteps(count), Branch(condition, guidance_scale=scale), stepper)
    return {
        "steps": steps,
        "denoised": torch.stack(stepper.found)[:, 0],
        "guidance_embedding": model._guidance_embedding(1, guided),
    }


@runner("few-step-schedules", "euler-sampling")
def euler_sampling(case: Case, model: StoredSDXL) -> dict[str, Result]:
    model.take(case)
    name = "euler-ancestral" if case.parameters["ancestral"] else "euler"
    schedule, sigmas = model.schedule, case.parameters["sigmas"]
    # where theirs starts: sigma_max times the noise, in these coordinates a little less than the noise
    start = sigmas[0] / (sigmas[0] ** 2 + 1.0) ** 0.5
    times = schedule.timesteps(case.parameters["num_inference_steps"])
    with ending_clean(model):
        steps = sampled(
            case, model, times, Branch(model.encode_prompt("source")), stepper_of(name, schedule), start=start
        )
    scales = (torch.tensor(sigmas[1:]) ** 2 + 1.0).sqrt().view(-1, 1, 1, 1, 1)
    return {"latents_vp": steps, "steps": steps * scales}


def sampled(
    case: Case, model: Model, times: Sequence[float], branch: Branch, stepper: Stepper[Any], start: float = 1.0
) -> Tensor:
    """Latents after each step of a run on stored draws, (steps, image, channels, height, width)."""
    noise, draws, found = start * case.tensors["latents"], case.tensors["noises"], []
    missing = torch.zeros(len(times) - len(draws), *draws.shape[1:])
    given = Inversion("given", noise, tuple(times), noise_maps=torch.cat([draws, missing]))

    def keep(latents: Tensor, step: Step) -> Tensor:
        found.append(latents[0])
        return latents

    sample(model, noise, {"x": branch}, timesteps=times, stepper=stepper, replay=given, on_step=[keep])
    return torch.stack(found)


class Denoised:
    """The stepper of a latent consistency model, which keeps what its consistency function gives."""

    def __init__(self, lcm: LCM) -> None:
        self.lcm, self.found = lcm, list[Tensor]()

    def init(self, latents: Tensor, first: Step) -> None:
        pass

    def stochastic(self, step: Step) -> bool:
        return self.lcm.stochastic(step)

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        self.found.append(self.lcm.denoised(latents, prediction, step.time))
        return self.lcm.step(latents, prediction, step, state, z)
