"""DDIM inversion: the probability-flow ODE walked from image to noise, with the sampler's own formula.

Source: Song et al., 2021, https://arxiv.org/abs/2010.02502, Eq. 13 and section 4.3; in this field since Mokady et al.,
2022, https://arxiv.org/abs/2211.09794.

Each step assumes that the noise predicted at the less noisy latents holds over the step. The network is told the level
moved *to* (the field's convention, also the diffusers inverse scheduler's); `told="from"` tells the level the latents
are at, as the first Plug-and-Play repository does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.registry import Option, inversion
from sfumato.sampling.ddim import ddim_step
from sfumato.sampling.draws import Generators
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Layout
from sfumato.watch import Watch

Told = Annotated[
    Literal["to", "from"], Option("whether the network is told the level moved to, or the one the latents are at")
]


@inversion(
    "ddim",
    title="DDIM inversion",
    paper="Song et al., 2021, https://arxiv.org/abs/2010.02502",
    summary="Walks the sampler's own formula from the picture to noise.",
    when="To see how well the model by itself leads back; close to exact at guidance 1 with 50 steps.",
    cost="1 evaluation a step.",
)
@torch.no_grad()
def ddim_inversion(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    timesteps: Sequence[int] | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
    inversion_guidance_scale: Annotated[
        float, Option("guidance while inverting; above 1 it drifts and the picture does not come back", low=1, high=100)
    ] = 1.0,
    told: Told = "to",
) -> Inversion:
    """Carries clean latents to noise, keeping every latent on the way.

    Costs one network evaluation a step and image, two when inverting with guidance.

    Args:
        model: Any model.
        latents: Clean latents x_0, (image, channels, height, width).
        condition: The source prompt; one row, or one an image.
        negative: What guidance leads away from; None: the empty prompt.
        guidance_scale: That of the source branch in the replay; not used: this inversion does not correct for it.
        num_inference_steps: Steps of the grid that sampling will use.
        timesteps: An explicit grid instead, noisiest first.
        generator: Not used: nothing is drawn.
        watch: Progress and cancellation.
        inversion_guidance_scale, told: see their `Option`.

    Returns:
        Noise, trajectory x_0 ... x_T and the grid.
    """
    steps = model.schedule.steps(num_inference_steps, timesteps=timesteps)
    latents = latents.to(model.device)
    latents = latents if latents.dtype == torch.float64 else latents.float()
    images = len(latents)
    halves = guidance_halves(model, inversion_guidance_scale != 1.0)
    layout = Layout(halves, ("source",), images, (latents.shape[-2], latents.shape[-1]))
    empty = model.encode_prompt("")
    rows = condition.expand(images)
    if len(halves) == 2:
        uncond = (negative or empty).padded(rows.prompt_embeds.shape[1], empty).expand(images)
        rows = Condition.cat([uncond, rows])
    scales = torch.tensor([inversion_guidance_scale]).to(latents)

    trajectory = [latents]
    for step in (watch or Watch()).during("inverting").over(steps[::-1]):
        t = step.t if told == "to" else max(step.t_prev, 0)
        output = guided_output(model, latents[None], t, rows, scales, layout)[0]
        noise_pred, x0_pred = model.schedule.noise_and_x0(output, latents, step.alpha_bar_prev)
        # The DDIM step with its levels exchanged: from the less noisy to the noisier one
        latents = ddim_step(latents, noise_pred, step.alpha_bar_prev, step.alpha_bar, x0_pred=x0_pred)
        trajectory.append(latents)

    return Inversion(
        method="ddim",
        noise=latents,
        timesteps=tuple(step.t for step in steps),
        trajectory=torch.stack(trajectory),
        model_revision=model.revision,
    )
