"""CycleDiffusion: the DPM-Encoder, zero-shot editing without and with attention control, ranking, and the measures."""

from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from sfumato.edits.candidate_search import best_of
from sfumato.edits.cycle_diffusion import cycle_diffusion
from sfumato.edits.task import EditTask
from sfumato.inversions.noise_maps import dpm_encoder
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.metrics import directional_agreement, mse, psnr, ssim, text_agreement
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.conformance.first_steps import is_part
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner
from tests.conformance.runners.control import control_kind, control_outputs, pairs, step_outputs


@runner("cycle-diffusion", "dpm-encoder", short_inversion=True)
def encoder(case: Case, model: Model) -> dict[str, Result]:
    found = encode(case, model, case.parameters["encoder_guidance_scale"])

    def decoded() -> Tensor:
        branch = Branch(model.encode_prompt(case.prompts["source"]), guidance_scale=found.guidance_scale)
        latents = sample(
            model,
            found.noise,
            {"source": branch},
            timesteps=found.timesteps,
            start_index=found.start_index,
            eta=found.eta,
            replay=found,
        )
        return latents[0]

    return {"z": code(found), "x_0_decoded": decoded}


@runner("cycle-diffusion", "zero-shot-edit", short_inversion=True)
def zero_shot_edit(case: Case, model: Model) -> dict[str, Result]:
    found = encode(case, model, case.parameters["encoder_guidance_scale"])
    return {"z": code(found), "edited": lambda: edited(case, model, found, case.parameters["decoder_guidance_scale"])}


@runner("cycle-diffusion", "zero-shot-edit-attention-control", in_part=True)
def zero_shot_edit_attention_control(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, prompts = case.parameters, case.prompts
    found = encode(case, model, parameters["source_guidance_scale"])
    scale = parameters["target_guidance_scale"]
    per_step: list[Tensor] = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        per_step.append(latents[:, 0])
        return latents

    controlled = edited(
        case,
        model,
        found,
        scale,
        attention_control=control_kind(parameters["control"]),
        cross_replace_steps=pairs(parameters["cross_replace_steps"]),
        self_replace_steps=pairs(parameters["self_replace_steps"]),
        self_replace_size=int(sqrt(parameters["self_replace_max_pixels"])),
        released=True,
        on_step=[keep],
    )
    stored = case.tensors.get("edited_uncontrolled") if is_part() else None
    free = edited(case, model, found, scale) if stored is None else stored
    return {
        **control_outputs(case, model.text, [prompts["source"], prompts["target"]], parameters["control"]),
        **step_outputs(case, per_step),
        "z": code(found),
        "edited": controlled,
        "edited_uncontrolled": free,
    }


@runner("cycle-diffusion", "candidate-ranking")
def candidate_ranking(case: Case, model: Model) -> dict[str, Tensor]:
    texts = case.tensors["target_text_features"], case.tensors["source_text_features"]
    candidates = case.tensors["candidate_features"]
    score = directional_agreement(candidates, case.tensors["source_image_features"], *texts)
    return {
        "clip_score": text_agreement(candidates, texts[0]).T,
        "directional_clip_score": score.T,
        "best": best_of(1.0 - score),
    }


@runner("cycle-diffusion", "faithfulness-metrics")
def faithfulness_metrics(case: Case, model: Model) -> dict[str, Tensor]:
    original, shown = (case.tensors[name].clamp(0, 1) for name in ("original", "edited"))
    pairs = list(zip(shown, original, strict=True))
    decibels = [psnr(one, other, data_range=1.0) for one, other in pairs]
    return {
        "psnr": torch.tensor([value if isfinite(value) else 100.0 for value in decibels]),
        "ssim": ssim(shown, original, data_range=1.0).float(),
        "l2": torch.tensor([sqrt(mse(one, other) * one.numel()) for one, other in pairs]),
    }


def encode(case: Case, model: Model, guidance_scale: float) -> Inversion:
    """The case's latents encoded with its own draws."""
    executed, steps = case.tensors["posterior_noise"].shape[0] + 1, case.parameters["num_steps"]
    return dpm_encoder(
        InversionTask(
            model,
            case.tensors["x_0"],
            model.encode_prompt(case.prompts["source"]),
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
        ),
        noise=torch.cat([case.tensors["noise_T"], case.tensors["posterior_noise"]])[:, None],
        eta=case.parameters["eta"],
        strength=executed / steps,
    )


def edited(
    case: Case, model: Model, found: Inversion, guidance_scale: float, *, on_step: Any = (), **options: Any
) -> Tensor:
    """Latents of the target, (image, channels, height, width)."""
    prompts = case.prompts["source"], [case.prompts["target"]]
    task = EditTask(model, found, *prompts, guidance_scale=guidance_scale, on_step=on_step)
    return cycle_diffusion(task, skip_steps=found.start_index, **options).latents[1]


def code(found: Inversion) -> Tensor:
    """x_T, then the noise of each executed step."""
    assert found.noise_maps is not None
    return torch.cat([found.noise, found.noise_maps[found.start_index :, 0]])
