"""Plug-and-Play: its inversion, one network call with each injection, and translations."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from sfumato.edits.plug_and_play import injections, plug_and_play, translation_rows
from sfumato.edits.task import EditTask
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner


@runner("plug-and-play", "inversion", short_inversion=True)
def inversion(case: Case, model: Model) -> dict[str, Result]:
    condition = model.encode_prompt(case.prompts["source_prompt"])
    timesteps = sorted(case.parameters["timesteps"], reverse=True)
    found = ddim_inversion(InversionTask(model, case.tensors["latents"], condition, timesteps=timesteps))
    assert found.trajectory is not None

    def back() -> Tensor:
        return sample(model, found.noise, {"source": Branch(condition)}, timesteps=timesteps)[0]

    return {"trajectory": found.trajectory[1:, 0], "noise": found.noise, "reconstruction": back}


@runner("plug-and-play", "layers")
def layers(case: Case, model: Model) -> dict[str, Tensor]:
    source, target = case.tensors["source_latents"], case.tensors["target_latents"]
    condition = model.encode_prompt(list(case.prompts.values()))  # source, negative, target
    rows = translation_rows(condition[[0]], condition[[1]], [condition[[2]]])
    latents = torch.stack([source, target])
    layout = Layout(("cond",), ("source", "target"), 1, (source.shape[-2], source.shape[-1]))
    t = int(case.parameters["t"])
    step = Step(0, 1, t, -1, model.schedule.level(t), model.schedule.level(-1))
    outputs = {}
    for name, features, attention in (("none", 0, 0), ("features", 1, 0), ("attention", 0, 1), ("both", 1, 1)):
        controls = injections(model, layout.latent_size, feature_steps=features, attention_steps=attention)
        with torch.no_grad(), ExitStack() as stack:
            for control in map(rows.under, controls):
                stack.enter_context(control.installed(model, layout))
                control.at_step(step)
            outputs[f"model_output_{name}"] = rows.predict(model, latents, t)[:, 0]
    return outputs


@runner("plug-and-play", "translate")
def translate(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, prompts = case.parameters, case.prompts
    steps, sampled = parameters["num_inversion_steps"], parameters["num_inference_steps"]
    condition = model.encode_prompt(prompts["source_prompt"])
    found = ddim_inversion(InversionTask(model, case.tensors["latents"], condition, num_inference_steps=steps))
    per_step: list[Tensor] = []
    outputs: dict[str, Tensor] = {}

    def keep(latents: Tensor, step: Any) -> Tensor:
        per_step.append(latents[1, 0])
        return latents

    predict = model.predict

    def listen(latents: Tensor, t: int, condition: Any) -> Tensor:
        output = predict(latents, t, condition)
        outputs[f"model_output_step{len(per_step)}"] = output
        return output

    model.predict = listen  # type: ignore[method-assign]
    try:
        task = EditTask(
            model, found, prompts["source_prompt"], [prompts["target_prompt"]], prompts["negative_prompt"],
            guidance_scale=parameters["guidance_scale"], on_step=[keep],
        )  # fmt: skip
        plug_and_play(
            task,
            feature_threshold=parameters["feature_threshold"],
            attention_threshold=parameters["attention_threshold"],
            sampling_steps=sampled,
        )
    finally:
        del model.predict
    return {"trajectory": torch.stack(per_step), **outputs}
