"""Interpolating between images: the tree of frames."""

import torch
from torch import Tensor

from sfumato.models.base import Model
from sfumato.morphs.denoiser import Denoiser
from sfumato.morphs.frame_tree import noise_stacks, tree
from tests.conformance.golden import Case
from tests.conformance.registry import runner


@runner("interpolating-images", "branching")
def branching(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, prompts = case.parameters, case.prompts
    latents = torch.cat([case.tensors["latents_1"], case.tensors["latents_2"]])
    levels, noise = parameters["step_schedule"], case.tensors["noise"]
    if not parameters.get("share_noise", True):
        noise = noise.unflatten(0, (-1, 2))
    stride = 1000 // parameters["ddim_steps"]
    grid = list(range(1, 1000, stride))
    stacks = noise_stacks(latents, noise, [model.schedule.level(grid[k]) for k in levels[1:]])
    condition = model.encode_prompt([prompts["embedding_1"], prompts["embedding_2"]])
    negative = model.encode_prompt(prompts["unconditional"])
    denoise = Denoiser(model, condition, negative, parameters["guidance_scale"], grid[::-1])
    frames = tree(denoise, latents, noise, levels, retroactive=parameters["retroactive"], released=True)
    return {"stack_1": stacks[:, 0], "stack_2": stacks[:, 1], "frames": frames[1:-1]}
