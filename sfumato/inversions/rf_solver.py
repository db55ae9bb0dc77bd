"""RF-Solver (Wang et al., 2024), https://arxiv.org/abs/2411.04746: a rectified flow inverted at order 2.

Differs from the authors' code: their Taylor step is written as what it is, the midpoint rule; no values of attention
are stored, see `sfumato.edits.rf_edit`.
"""

from __future__ import annotations

import torch

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.walk import intervals_up, walked
from sfumato.sampling.solvers import midpoint


@inversion(
    "rf-solver",
    summary="Walks a rectified flow to noise by the midpoint rule, and back alike.",
    when="A flow model, and the source must be reconstructed more closely than by Euler's steps.",
    cost="2 evaluations a step, and 2 a step of the edit.",
    serves_like="ddim",
    needs=("flow",),
)
@torch.no_grad()
def rf_solver_inversion(task: InversionTask) -> Inversion:
    """Carries clean latents to noise, keeping every latent on the way; the replay steps by the same rule.

    Raises:
        ModelError: The model is no rectified flow.
    """
    latents = walked(task, midpoint, intervals_up(task))
    return task.inversion("rf-solver", latents[-1], trajectory=torch.stack(latents))
