"""Uni-Inv (Jiao et al., 2025), https://arxiv.org/abs/2504.13109: each step asks the network where the step ends.

Sampling by Euler's steps asks the network at the noisier end of each step; so does this inversion, at latents that the
velocity of the step before predicts.

Differs from the authors' code: the autoencoder's shift and scale are the model's own.
"""

from __future__ import annotations

from typing import Annotated

import torch

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.walk import intervals_up, walked
from sfumato.options import Option
from sfumato.sampling.shares import first_step
from sfumato.sampling.solvers import Implicit


@inversion(
    "uni-inv",
    summary="Walks a rectified flow to noise with the velocity of each step's noisier end.",
    when="For UniEdit-Flow; or a flow model sampled by Euler's steps.",
    cost="1 evaluation a step and 1 more.",
    serves_like="ddim",
    needs=("flow",),
)
@torch.no_grad()
def uni_inv(
    task: InversionTask,
    *,
    share: Annotated[
        float,
        Option(
            "share of the steps that are inverted, from the image on; edits start there at the noisiest", low=0, high=1
        ),
    ] = 1.0,
) -> Inversion:
    """Carries clean latents towards noise, keeping every latent on the way.

    Raises:
        UsageError: share leaves no step.
        ModelError: The model is no rectified flow.
    """
    start = first_step(share, len(task.steps), at_least=1)
    latents = walked(task, Implicit(), intervals_up(task, len(task.steps) - start))
    return task.inversion("uni-inv", latents[-1], trajectory=torch.stack(latents), start_index=start)
