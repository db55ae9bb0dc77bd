"""Direct inversion (PnP Inversion; Ju et al., 2023), https://arxiv.org/abs/2310.01506: DDIM inversion without drift.

In the replay the source branch is set to the inversion's trajectory after every step. What the edited branches take
from the source (attention maps, features, masks) then comes from the image itself, and nothing is optimised. The edited
branches are not changed.

The guidance scale of the source branch does not matter: its prediction is replaced by the trajectory, and what others
take from it is computed before guidance is applied. The default is 1, which costs least.

Differs from the authors' code: they store, for each step, the difference between the trajectory and the guided step and
add it to the source branch (Alg. 1); the sum is the trajectory, so the replay sets it, and the extra pass is saved.
"""

from __future__ import annotations

from dataclasses import replace

from sfumato.inversions.ddim import ConditionedOn, ddim_inversion
from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask


@inversion(
    "direct",
    paper="Ju et al., 2023, https://arxiv.org/abs/2310.01506",
    summary="Inverts as DDIM inversion does, and sets the source branch to that path at every step of the edit.",
    when="The default: the reconstruction does not drift, at no extra cost.",
    cost="1 evaluation a step.",
    source_guidance_scale=1.0,
)
def direct_inversion(task: InversionTask, *, conditioned_on: ConditionedOn = None) -> Inversion:
    """Inverts clean latents without guidance; `sample(replay=...)` sets branch 0 to the trajectory.

    Costs one network evaluation a step and image.

    Returns:
        Noise, trajectory x_0 ... x_T and the grid, with `pinned` set.
    """
    return replace(ddim_inversion(task, conditioned_on=conditioned_on), method="direct", pinned=True)
