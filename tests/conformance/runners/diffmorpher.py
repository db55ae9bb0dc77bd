"""DiffMorpher: noise, adapters and attention between two images, and whole sequences."""

import torch
from torch import Tensor

from sfumato.adaptation.lora import Lora, adapted
from sfumato.attention.interpolate import InterpolatedSource
from sfumato.attention.patch import AttentionControl
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.models.schedules import Level, Step
from sfumato.morphs.diffmorpher import DiffMorpherPath, adaptive_normalisation
from sfumato.morphs.slerp import slerp
from sfumato.morphs.spacings.reschedule import reschedule
from sfumato.sampling.layout import Layout
from tests.conformance.first_steps import is_part
from tests.conformance.golden import Case
from tests.conformance.registry import runner
from tests.conformance.runners.layers import attention_output

SPATIAL = 64  # latents at which the sites of a single layer are listed


@runner("diffmorpher", "latent-slerp-adain")
def latent_slerp_adain(case: Case, model: Model) -> dict[str, Tensor]:
    first, second = case.tensors["noise_0"], case.tensors["noise_1"]
    plain = [slerp(first, second, alpha) for alpha in case.parameters["alphas"]]
    styled = [
        adaptive_normalisation(noise, first, second, alpha)
        for noise, alpha in zip(plain, case.parameters["alphas"], strict=True)
    ]
    return {"plain": torch.cat(plain), "adain": torch.cat(styled)}


@runner("diffmorpher", "lora-interpolation")
def lora_interpolation(case: Case, model: Model) -> dict[str, Tensor]:
    parameters = case.parameters
    first, second = _loras(case)
    lora = first.lerp(second, parameters["alpha"])
    condition = model.encode_prompt(case.prompts["prompt"])
    with torch.no_grad(), adapted(model, lora):
        output = model.predict(case.tensors["latents"], parameters["t"], condition)
    down, up = lora.factors[parameters["weight_change_of"]]
    return {"model_output": output, "weight_change": up @ down}


@runner("diffmorpher", "attention-interpolation")
def attention_interpolation(case: Case, model: Model) -> dict[str, Tensor]:
    parameters = case.parameters
    hidden, *ends = (case.tensors[name] for name in ("hidden", "hidden_0", "hidden_1"))
    rows = torch.cat([ends[0], hidden, ends[1]])
    mixed = InterpolatedSource(
        [parameters["layer"]], [0.0, float(parameters["alpha"]), 1.0], 1, own_share=float(parameters["beta"])
    )
    control = AttentionControl([mixed])
    with torch.no_grad():
        plain = attention_output(model, parameters["layer"], hidden)
        with control.installed(model, Layout(("cond",), ("start", "frame", "end"), 1, (SPATIAL, SPATIAL))):
            control.at_step(Step(0, 1, 1, -1, Level(0.95, 0.31), Level(1.0, 0.0)))
            replaced = attention_output(model, parameters["layer"], rows)
    return {"plain": plain, "replaced": replaced[[1]]}


@runner("diffmorpher", "sequence", in_part=True)
def sequence(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, prompts = case.parameters, [case.prompts["prompt_0"], case.prompts["prompt_1"]]
    loras, timesteps, condition = _loras(case), tuple(parameters["timesteps"]), model.encode_prompt(prompts)
    noise = []
    for k, lora in enumerate(loras):
        with adapted(model, lora):
            latents = case.tensors[f"latents_{k}"]
            noise.append(ddim_inversion(InversionTask(model, latents, condition[[k]], timesteps=timesteps)).noise)
    between = DiffMorpherPath(
        torch.cat(noise), condition, loras, timesteps, adain=parameters["adain"],
        attention_steps=parameters["replaced_steps"], lora_weight=parameters.get("fix_lora"),
    )  # fmt: skip
    count = parameters["num_frames"]

    even = [k / (count - 1) for k in range(count)]
    frames = between.frames(model, even)
    outputs = {"noise_0": noise[0], "noise_1": noise[1], "frames": frames}
    if parameters["reschedule"]:
        distances = _squared_differences(model, frames)
        alphas = reschedule(distances.tolist(), even, count)
        again = case.tensors["rescheduled_frames"] if is_part() else between.frames(model, alphas)
        outputs |= {"distances": distances, "alphas": torch.tensor(alphas), "rescheduled_frames": again}
    return outputs


def _loras(case: Case) -> tuple[Lora, Lora]:
    def read(prefix: str) -> Lora:
        names = [name for name in case.tensors if name.startswith(prefix)]
        return Lora.from_tensors({name.removeprefix(prefix): case.tensors[name] for name in names})

    return read("lora_0."), read("lora_1.")


def _squared_differences(model: Model, latents: Tensor) -> Tensor:
    """Of neighbouring frames, decoded one by one and rounded down to bytes."""
    with torch.no_grad():
        pixels = torch.cat([model.decode_latents(frame) for frame in latents.split(1)])
    shown = ((pixels / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8).float() / 255
    return (shown[1:] - shown[:-1]).square().mean(dim=(1, 2, 3))
