"""Attention interpolation: single layers in the four forms, and sequences of frames."""

from typing import Any

import torch
from torch import Tensor

from sfumato.attention.interpolate import InterpolatedAttention
from sfumato.attention.patch import AttentionControl
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.schedules import Level, Step
from sfumato.morphs.attention_interpolation import interpolated_frames
from sfumato.morphs.spacings.beta import Beta
from sfumato.sampling.layout import Layout
from tests.conformance.golden import Case
from tests.conformance.registry import runner
from tests.conformance.runners.layers import attention_output

KINDS = ("fused_outer", "outer", "fused_inner", "inner")
STEP = Step(0, 1, 1, -1, Level(0.95, 0.31), Level(1.0, 0.0))


@runner("attention-interpolation", "attention")
def attention(case: Case, model: Model) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    parameters, tensors = case.parameters, case.tensors
    prior, size = Beta(parameters["alpha"], parameters["beta"]), int(parameters["size"])
    coefficients = [prior.quantile(k / (size - 1)) for k in range(size)]
    for suffix, weights in (("", [0.0, float(parameters["t"]), 1.0]), ("_many", coefficients)):
        hidden, text = tensors[f"hidden{suffix}"], tensors[f"text{suffix}"]
        layout = Layout(("cond",), tuple(map(str, range(len(hidden)))), 1, (64, 64))
        for kind in KINDS:
            control = AttentionControl([InterpolatedAttention(_kind(kind), weights, 1)])
            with torch.no_grad(), control.installed(model, layout):
                control.at_step(STEP)
                for name, layer, text_of in (("self", "attn1", None), ("cross", "attn2", text)):
                    output = attention_output(model, f"{parameters['layer']}.{layer}", hidden, text_of)
                    outputs[f"{kind}_{name}{suffix}"] = output
    return {**outputs, "coefficients": torch.tensor(coefficients)}


@runner("attention-interpolation", "sequence")
def sequence(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, prompts = case.parameters, case.prompts
    noise = torch.cat([case.tensors["noise_start"], case.tensors["noise_end"]])
    guide = prompts.get("guide_prompt")
    frames = interpolated_frames(
        model,
        Inversion("drawn", noise, tuple(parameters["timesteps"])),
        model.encode_prompt([prompts["start_prompt"], prompts["end_prompt"]]),
        [0.0, *parameters["t"], 1.0],
        negative=model.encode_prompt(prompts["negative_prompt"]),
        guide=None if guide is None else model.encode_prompt(guide),
        guidance_scale=parameters["guidance_scale"],
        kind=_kind(parameters["kind"]),
        warmup_steps=parameters["warmup_steps"],
        released=True,
    )
    return {"frames": frames}


def _kind(name: str) -> Any:
    return name.replace("_", "-")
