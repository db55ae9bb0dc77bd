"""CycleDiffusion: translation between two unconditional models, and Langevin guidance of the code."""

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sfumato.edits.two_models import reconstruct, translate
from sfumato.guidance.energies import Quadratic
from sfumato.guidance.langevin import code_decoder, energy_gradient, langevin
from sfumato.models.base import Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.pixel_ddpm import UnconditionalDDPM
from tests.conformance.golden import Case
from tests.conformance.registry import runner


@runner("cycle-diffusion", "unpaired-translation")
def unpaired_translation(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, tensors = case.parameters, case.tensors
    source, target = (_network(case, file) for file in case.description["networks"]["weights"])
    grid = parameters["grid_entries"]
    refine_noise = tensors["refine_noise"][:, None] if parameters["refine_steps"] else None
    found = translate(
        source,
        target,
        source.encode_image(2 * tensors["image"] - 1),
        num_inference_steps=grid,
        strength=parameters["es_steps"] / grid,
        eta=parameters["eta"],
        refine_strength=parameters["refine_steps"] / grid,
        refine_eta=parameters["refine_eta"],
        noise=torch.cat([tensors["noise_T"], tensors["posterior_noise"]])[:, None],
        refine_noise=refine_noise,
    )
    assert found.inversion.noise_maps is not None
    maps = found.inversion.noise_maps[found.inversion.start_index : -1, 0]  # the last step has no noise
    outputs = {
        "z": torch.cat([found.inversion.noise, maps]),
        "translated": source.decode_latents(found.unrefined) / 2 + 0.5,
        "reconstruction": source.decode_latents(reconstruct(source, found.inversion)) / 2 + 0.5,
    }
    if refine_noise is not None:
        outputs["refined"] = target.decode_latents(found.latents) / 2 + 0.5
    return outputs


@runner("cycle-diffusion", "langevin-guidance")
def langevin_guidance(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, tensors = case.parameters, case.tensors
    decode = code_decoder(
        model,
        model.encode_prompt(case.prompts["prompt"]),
        eta=parameters["eta"],
        timesteps=parameters["timesteps"],
        pixels=False,
    )
    code = tensors["z_0"][:, None]
    energies = [(parameters["energy_weight"], Quadratic(tensors["target"]))]
    trajectory: list[Tensor] = []
    found = langevin(
        code,
        decode,
        energies,
        num_langevin_steps=parameters["num_langevin_steps"],
        step_size=parameters["step_size"],
        prior_weight=parameters["prior_weight"],
        noise=tensors["langevin_noise"][:, :, None],
        on_step=lambda code, index: trajectory.append(code[:, 0]),
    )
    return {
        "z_trajectory": torch.stack(trajectory),
        "decoded": found.images,
        "energies_first": found.energies[0, :, 0],
        "energies_last": found.energies[-1, :, 0],
        "energy_grad_first": energy_gradient(code, decode, energies)[0][:, 0],
    }


def _network(case: Case, file: str) -> Any:
    """A network that lies in the case's folder, with the schedule of its authors: linear, alpha_bar taken in fp32."""
    import diffusers

    description = case.description["networks"]
    unet = getattr(diffusers, description["class"].removeprefix("diffusers."))(**description["config"])
    unet.load_state_dict(load_file(case.folder / file))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    levels = (1.0 - betas.float()).cumprod(0)
    return UnconditionalDDPM(unet=unet, schedule=DiscreteVP(levels.double()), name=file, revision=file)
