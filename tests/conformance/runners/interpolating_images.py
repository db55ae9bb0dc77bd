"""Interpolating between images: the tree of frames."""

import torch
from torch import Tensor

from sfumato.models.base import Model
from sfumato.morphs.interpolating_images import noise_stacks, tree
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
    stacks = noise_stacks(latents, noise, [model.schedule.alpha_bar(grid[k]) for k in levels[1:]])
    frames = tree(
        model,
        latents,
        model.encode_prompt([prompts["embedding_1"], prompts["embedding_2"]]),
        noise,
        levels,
        negative=model.encode_prompt(prompts["unconditional"]),
        guidance_scale=parameters["guidance_scale"],
        timesteps=grid[::-1],
        retroactive=parameters["retroactive"],
        released=True,
    )
    return {"stack_1": stacks[:, 0], "stack_2": stacks[:, 1], "frames": frames[1:-1]}
