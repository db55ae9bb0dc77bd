r"""RF-Inversion (Rout et al., 2024), https://arxiv.org/abs/2410.10792: a controlled way to one draw of noise.

.. math:: dy = \left[u + \gamma\left(\frac{\epsilon - y}{1 - r} - u\right)\right] dr, \qquad u = v(y, r)

(Eq. 8), r the level, from 0 to 1. The network is given the empty prompt. What the inversion keeps is an image's path to
that noise; the edit has a controller of its own, see `sfumato.edits.rf_inversion`.

Differs from the authors' code (diffusers' community pipeline): the steps are those of the sampling grid, upwards, and
FLUX is given guidance 1. Theirs, with `official_grid`, takes the lengths of the sampling steps in their order while
the network is given i / (N + 1) and FLUX guidance 0; results differ by 10 to 20 % on a toy model.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.walk import intervals_up, walked
from sfumato.models.rectified_flow import TIMES
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.solvers import Interval, Solver, Velocity


@inversion(
    "rf-inversion",
    summary="Walks a rectified flow to noise without a prompt, drawn towards one draw of noise.",
    when="For the method of the same name; or where the inverted noise should be close to normal.",
    cost="1 evaluation a step.",
    serves_like="ddim",
    needs=("flow",),
)
@torch.no_grad()
def rf_inversion(
    task: InversionTask,
    *,
    gamma: Annotated[
        float,
        Option("weight of the pull towards the noise; 0 is Euler inversion, 1 ends at the noise itself", low=0, high=1),
    ] = 0.5,
    official_grid: Annotated[
        bool, Option("step lengths, times and guidance as in the authors' code, in which they do not fit one another")
    ] = False,
    noise: Tensor | None = None,
) -> Inversion:
    """Carries clean latents to noise, keeping every latent on the way.

    Args:
        task: Its generator draws the noise.
        gamma, official_grid: See their `Option`.
        noise: In place of the draw, (image, channels, height, width).

    Raises:
        ModelError: The model is no rectified flow.
    """
    clean = task.clean
    end = draw_noise(clean.shape, task.generator, clean) if noise is None else noise.to(clean)
    scale = 0.0 if official_grid and task.model.takes_guidance else 1.0
    latents = walked(
        task, _towards(end, gamma), _official(task) if official_grid else intervals_up(task),
        condition=task.model.encode_prompt(""), guidance_scale=scale,
    )  # fmt: skip
    return task.inversion("rf-inversion", latents[-1], trajectory=torch.stack(latents))


def _towards(noise: Tensor, gamma: float) -> Solver:
    """The velocity under control."""

    def solve(velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
        own = velocity(latents, interval.time)
        return own + gamma * ((noise - latents) / (1.0 - interval.level) - own)

    return solve


def _official(task: InversionTask) -> list[Interval]:
    """Step i is conditioned on i / (N + 1), and is as long as step i of the sampling order."""
    count, found = len(task.steps), []
    for step in task.steps:
        level = step.index / (count + 1)
        length = step.level.noise - step.level_prev.noise
        found.append(Interval(TIMES * level, TIMES * (level + length), level, level + length, step.index))
    return found
