"""Levels of rectified flows as SD3's and FLUX's pipelines lay them."""

from typing import Any

import torch
from torch import Tensor

from sfumato.models.rectified_flow import DynamicShift, RectifiedFlow
from tests.conformance.golden import Case
from tests.conformance.registry import runner


@runner("flow-schedule", "levels")
def run(case: Case, model: Any) -> dict[str, Tensor]:
    config, outputs = case.parameters["scheduler"], {}
    dynamic = None
    if config.get("use_dynamic_shifting"):
        dynamic = DynamicShift(
            config["base_shift"], config["max_shift"], config["base_image_seq_len"], config["max_image_seq_len"]
        )
    schedule, mus = RectifiedFlow(config["shift"], dynamic, case.parameters["grid"]), []
    for k, options in enumerate(case.parameters["runs"]):
        size = (options["height"] // 8, options["width"] // 8) if "height" in options else None
        steps = schedule.steps(options["num_inference_steps"], latent_size=size)
        levels = [steps[0].level, *(step.level_prev for step in steps)]
        outputs[f"sigmas_{k}"] = torch.tensor([level.noise for level in levels], dtype=torch.float64)
        outputs[f"timesteps_{k}"] = torch.tensor([step.time for step in steps], dtype=torch.float64)
        if dynamic is not None and size is not None:
            mus.append(dynamic.mu(size))
    return outputs | ({"mu": torch.tensor(mus, dtype=torch.float64)} if mus else {})
