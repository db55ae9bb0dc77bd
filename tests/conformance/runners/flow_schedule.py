"""Levels of rectified flows as the pipelines of SD3, FLUX and their kin lay them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.models.rectified_flow import EmpiricalShift, read_flow
from tests.conformance.golden import Case
from tests.conformance.registry import runner


@runner("flow-schedule", "levels")
def run(case: Case, model: Any) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    schedule, mus = read_flow(case.parameters["scheduler"], grid=case.parameters["grid"]), []
    if "empirical" in str(case.parameters.get("mu_rule")):
        schedule = replace(schedule, dynamic=EmpiricalShift())
    for k, options in enumerate(case.parameters["runs"]):
        size = (options["height"] // 8, options["width"] // 8) if "height" in options else None
        steps = schedule.steps(options["num_inference_steps"], latent_size=size)
        levels = [steps[0].level, *(step.level_prev for step in steps)]
        outputs[f"sigmas_{k}"] = torch.tensor([level.noise for level in levels], dtype=torch.float64)
        outputs[f"timesteps_{k}"] = torch.tensor([step.time for step in steps], dtype=torch.float64)
        if schedule.dynamic is not None and size is not None:
            mus.append(schedule.dynamic.mu(size, options["num_inference_steps"]))
    return outputs | ({"mu": torch.tensor(mus, dtype=torch.float64)} if mus else {})
