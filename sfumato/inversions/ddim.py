"""DDIM inversion: the sampler's own step, taken from image to noise.

Source: Song et al., 2021, https://arxiv.org/abs/2010.02502, Eq. 13 and section 4.3; in this field since Mokady et al.,
2022, https://arxiv.org/abs/2211.09794.

Each step assumes that the noise predicted at the less noisy latents holds over the step. The network is conditioned on
the next timestep (the field's convention, also that of diffusers' inverse scheduler); with
`conditioned_on="current"` on the current one, as in the first Plug-and-Play repository. On a rectified flow the step is
Euler's (Liu et al., 2022, https://arxiv.org/abs/2209.03003), and the network is conditioned on the level it leaves.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.options import Option
from sfumato.sampling.ddim import ddim_step

ConditionedOn = Annotated[
    Literal["next", "current"] | None,
    Option(
        "timestep that the network is conditioned on in a step: that of the noisier end (next), or of the less noisy"
        " one (current); none: next, on a rectified flow current",
        formerly="told",
        renamed_values={"to": "next", "from": "current"},
    ),
]


@inversion(
    "ddim",
    title="DDIM inversion",
    paper="Song et al., 2021, https://arxiv.org/abs/2010.02502",
    summary="Takes the sampler's own steps from the image to noise.",
    when="A baseline: the reconstruction is close to exact at guidance 1 with many steps.",
    cost="1 evaluation a step.",
)
@torch.no_grad()
def ddim_inversion(
    task: InversionTask,
    *,
    inversion_guidance_scale: Annotated[
        float, Option("guidance scale during the inversion; above 1 the reconstruction drifts", low=1, high=100)
    ] = 1.0,
    conditioned_on: ConditionedOn = None,
) -> Inversion:
    """Carries clean latents to noise, keeping every latent on the way.

    Costs one network evaluation a step and image, two when inverting with guidance.

    Returns:
        Noise, trajectory x_0 ... x_T and the grid.
    """
    source, latents = task.source(inversion_guidance_scale), task.clean
    next_one = conditioned_on == "next" or (conditioned_on is None and task.model.schedule.target != "flow")
    trajectory = [latents]
    for step in task.over(task.steps[::-1]):
        time = step.time if next_one else max(step.time_prev, 0)
        prediction = source.predict(latents, time, step.level_prev)
        # The DDIM step with its levels exchanged: from the less noisy to the noisier one
        latents = ddim_step(prediction, step.level_prev, step.level)
        trajectory.append(latents)
    return task.inversion("ddim", latents, trajectory=torch.stack(trajectory))
