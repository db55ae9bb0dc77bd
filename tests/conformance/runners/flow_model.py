"""SD3's and FLUX's networks, sampling, inversion, SDEdit and the latent morph, on the prompts that a case stores."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.edits.sdedit import sdedit
from sfumato.edits.task import EditTask
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import GUIDANCE, POOLED, Condition
from sfumato.models.flux import Flux, packed, positions
from sfumato.morphs.latent_slerp import latent_slerp
from sfumato.morphs.path import Ends
from sfumato.morphs.task import MorphTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.conformance.golden import Case
from tests.conformance.registry import runner

EMPTY = ""


def stored_prompts(case: Case, model: Any) -> list[str]:
    """Gives the model the conditions that a case stores, under the names of its rows; returns these names.

    The row of the empty prompt is the empty prompt's.
    """
    meaning = case.description["inputs"]["prompt_embeds"]["meaning"]
    named = [name.partition("(")[0].strip() for name in meaning.partition("rows:")[2].split(",")]
    names = [EMPTY if "empty" in name else name.removesuffix(" prompt") for name in named]
    text, pooled = case.tensors["prompt_embeds"], case.tensors["pooled_embeds"]
    for k, name in enumerate(names):
        model.give_prompt(name, Condition(text[[k]], {POOLED: pooled[[k]]}))
    if EMPTY not in names:
        model.give_prompt(EMPTY, Condition(torch.zeros_like(text[:1]), {POOLED: torch.zeros_like(pooled[:1])}))
    return names


def honoured(model: Any, scale: float | None) -> float:
    """A guidance scale as the model's own pipeline takes it: FLUX schnell passes over it."""
    without = isinstance(model, Flux) and not model.transformer.config.guidance_embeds
    return 1.0 if scale is None or without else scale


def edit_task(case: Case, model: Any, source: Inversion, scale: float | None = 1.0) -> EditTask:
    """The task of a case with a source and a target, or a target alone, guided at a scale."""
    names = stored_prompts(case, model)
    named = "source" if "source" in names else EMPTY
    return EditTask(model, source, named, ["target"], guidance_scale=honoured(model, scale))


def image_of(case: Case, model: Any) -> Inversion:
    """The image of a case, for methods that start from it."""
    clean = case.tensors["source_latents"]
    noise = case.tensors["noise"][:1] if "noise" in case.tensors else torch.zeros_like(clean)
    return Inversion("picture", noise, grid_of(case, model), trajectory=clean[None])


def inversion_task(case: Case, model: Any, prompt: str) -> InversionTask:
    """The task of inverting the image of a case under one of its prompts."""
    return InversionTask(
        model, case.tensors["source_latents"], model.encode_prompt(prompt), num_inference_steps=steps_of(case)
    )


def steps_of(case: Case) -> int:
    return int(case.parameters["num_inference_steps"])


def grid_of(case: Case, model: Any) -> tuple[float, ...]:
    height, width = case.parameters["size"]
    return tuple(model.schedule.timesteps(steps_of(case), latent_size=(height, width)))


class Kept:
    """An `on_step` hook that keeps the latents of a branch after each step."""

    def __init__(self, start: Tensor, branch: int = -1) -> None:
        self.branch, self.latents = branch, [start]

    def __call__(self, latents: Tensor, step: Any) -> Tensor:
        self.latents.append(latents[self.branch])
        return latents

    @property
    def trajectory(self) -> Tensor:
        return torch.cat(self.latents)


@runner("flow-model", "autoencoder")
def autoencoder(case: Case, model: Any) -> dict[str, Tensor]:
    latents = model.encode_image(case.tensors["pixels"])
    with torch.no_grad():
        return {"latents": latents, "decoded": model.decode_latents(latents)}


@runner("flow-model", "velocity")
def velocity(case: Case, model: Any) -> Mapping[str, Tensor]:
    latents, sigmas = case.tensors["latents"], case.tensors["sigmas"].double().tolist()
    extras = {POOLED: case.tensors["pooled_embeds"]}
    if "guidance" in case.tensors:
        extras[GUIDANCE] = case.tensors["guidance"]
    condition = Condition(case.tensors["prompt_embeds"], extras)
    with torch.no_grad():
        output = model.predict(latents, [1000.0 * sigma for sigma in sigmas], condition)
    split = [
        model.schedule.split(row, noisy, model.schedule.level(1000.0 * sigma))
        for row, noisy, sigma in zip(output, latents, sigmas, strict=True)
    ]
    return {
        "velocity": output,
        "x0_pred": torch.stack([prediction.x0 for prediction in split]),
        "noise_pred": torch.stack([prediction.eps for prediction in split]),
        "packed_latents": packed(latents),
        "image_ids": positions((latents.shape[-2] // 2, latents.shape[-1] // 2)),
    }


@runner("flow-sampling", "sampling")
def sampling(case: Case, model: Any) -> dict[str, Tensor]:
    stored_prompts(case, model)
    noise, true_scale = case.tensors["noise"], None
    scale = honoured(model, case.parameters["guidance_scale"])
    if case.parameters.get("true_cfg_scale") is not None:
        true_scale = case.parameters["true_cfg_scale"]
        model.embedded_guidance = scale
    kept = Kept(noise)
    try:
        branch = Branch(model.encode_prompt("prompt"), guidance_scale=true_scale or scale)
        latents = sample(model, noise, {"sample": branch}, num_inference_steps=steps_of(case), on_step=[kept])
    finally:
        if true_scale is not None:
            model.embedded_guidance = None
    return {"trajectory": kept.trajectory, "final_latents": latents[0]}


@runner("flow-sampling", "inversion")
def inversion(case: Case, model: Any) -> dict[str, Tensor]:
    stored_prompts(case, model)
    inverted = ddim_inversion(inversion_task(case, model, "prompt"))
    kept = Kept(inverted.noise)
    branch = Branch(model.encode_prompt("prompt"), guidance_scale=honoured(model, case.parameters["guidance_scale"]))
    latents = sample(model, inverted.noise, {"sample": branch}, timesteps=inverted.timesteps, on_step=[kept])
    assert inverted.trajectory is not None
    return {
        "inversion_trajectory": inverted.trajectory[:, 0],
        "inverted_latents": inverted.noise,
        "reconstruction": latents[0],
        "replay_trajectory": kept.trajectory,
    }


@runner("flow-sampling", "sdedit")
def sdediting(case: Case, model: Any) -> dict[str, Tensor]:
    task = edit_task(case, model, image_of(case, model), case.parameters["guidance_scale"])
    count = task.num_steps
    start = int(count - min(count * case.parameters["strength"], count))  # more steps, where a part of one is left
    level = model.schedule.steps(timesteps=task.source.timesteps)[start].level
    return {
        "start_latents": level.signal * case.tensors["source_latents"] + level.noise * case.tensors["noise"],
        "final_latents": sdedit(task, strength=1.0 - start / count, eta=0.0).latents[1],
    }


@runner("flow-morph", "latent-slerp")
def morph(case: Case, model: Any) -> dict[str, Tensor]:
    first, second, *_ = stored_prompts(case, model)
    latents = case.tensors["source_latents"]
    ends = Ends(latents, latents, (first, second))
    task = MorphTask(
        model, ends, None, torch.Generator(), guidance_scale=honoured(model, case.parameters["guidance_scale"]),  # type: ignore[arg-type]
        num_inference_steps=steps_of(case),
    )  # fmt: skip
    path = latent_slerp(task)
    return {
        "inverted_latents": ddim_inversion(task.inversion()).noise,
        "frames": path.draw(case.parameters["morph_weights"]),
    }
