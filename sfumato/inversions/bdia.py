r"""BDIA inversion (Zhang et al., 2023), https://arxiv.org/abs/2307.10829: an exact inverse of a two-step sampler.

The sampler's step (`sampling/bdia.py`) is linear in the latents of the step before, so it is solved for them:

.. math:: z_{i+1} = D_{i \to i+1}(z_i) + \frac{1}{\gamma}\,\bigl(z_{i-1} - D_{i \to i-1}(z_i)\bigr)

Chosen over EDICT (Wallace et al., 2022, https://arxiv.org/abs/2211.12446), which is as exact: it takes one network
evaluation a step where EDICT's coupled latents take two, and one set of latents passes through the network, so that
every control, mask and hook of the loop works with it as with DDIM.

Under guidance an edited branch leaves the source's path. At gamma 1 the two-step rule then oscillates (odd and even
steps drift apart: saturated colours); below 1 the oscillation decays by the factor gamma a step. The inversion in turn
amplifies the error of its first step by 1 / gamma a step. The default limits that growth to 40 over the run, with gamma
at least 0.9.

Differs from the authors' code: the first step of the replay is the DDIM step plus a correction that the inversion found
at x_T, the same for all branches, where theirs stores x_T and the latents after it; so the edited branches are guided
at that step too.
"""

from __future__ import annotations

from typing import Annotated

import torch

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.options import Option
from sfumato.sampling.bdia import check_gamma
from sfumato.sampling.ddim import ddim_step


@inversion(
    "bdia",
    title="BDIA, exact inversion",
    summary="Samples by a rule that can be solved backwards, so that the reconstruction is exact to rounding.",
    when="The source must be reconstructed by sampling alone, at the guidance scale that it was inverted with.",
    cost="1 evaluation a step and 1 more (twice that with guidance).",
)
@torch.no_grad()
def bdia_inversion(
    task: InversionTask,
    *,
    gamma: Annotated[
        float | None,
        Option(
            "weight of the latents of the step before, above 0; near 1: oscillations at high guidance, lower: amplified"
            " noise; none: by the number of steps (0.93 at 50)",
            low=0,
            high=1,
        ),
    ] = None,
) -> Inversion:
    """Carries clean latents to noise by the exact inverse of BDIA's sampling step.

    Costs N + 1 network evaluations an image, twice that with guidance. Float64 latents are reconstructed up to
    rounding, at the guidance scale that they were inverted with.

    Returns:
        Noise, trajectory, the grid, gamma and the first step's `correction`, by which `sample(replay=...)` steps.

    Raises:
        UsageError: gamma is outside (0, 1].
    """
    steps = task.steps
    gamma = max(0.9, 0.025 ** (1.0 / len(steps))) if gamma is None else gamma
    check_gamma(gamma)
    source, latents = task.source(), task.clean

    # The least noisy step has nothing before it: DDIM inversion, conditioned on the next timestep
    last = steps[-1]
    prediction = source.predict(latents, last.time, last.level_prev)
    up = ddim_step(prediction, last.level_prev, last.level)
    trajectory = [latents, up]

    noisier = [step.level for step in steps[:-1]][::-1]
    missed = torch.zeros_like(latents)
    for k, step in enumerate(task.over(steps[::-1])):
        before, now = trajectory[-2:]
        prediction = source.predict(now, step.time, step.level)
        missed = before - ddim_step(prediction, step.level, step.level_prev)
        if k < len(noisier):
            up = ddim_step(prediction, step.level, noisier[k])
            trajectory.append(up + missed / gamma)
    return task.inversion("bdia", trajectory[-1], trajectory=torch.stack(trajectory), correction=missed, gamma=gamma)
