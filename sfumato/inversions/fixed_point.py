r"""Fixed-point DDIM inversion: each step is solved by iteration, so that sampling takes the same path back.

Plain DDIM inversion uses the noise predicted at the less noisy latents where the sampler will predict it at the noisier
ones. The latents x that the sampler carries to the known x_prev satisfy

.. math:: D(x) = x_{prev}, \qquad x^{(k+1)} = x^{(k)} + \sqrt{\bar\alpha / \bar\alpha_{prev}}\,(x_{prev} - D(x^{(k)})),

D the DDIM step with the network asked at x. Without clipping this is the fixed-point iteration of Pan et al., 2023
(AIDI), https://arxiv.org/abs/2309.04907, Eq. 9, and Meiri et al., 2023, https://arxiv.org/abs/2312.12540, written with
the residual. It converges where steps are short and guidance is low.

Differs from these: the iteration starts with the noise of the step before, which needs no evaluation; an image that is
solved is not evaluated again; where the iteration does not converge, its best latents are taken.
"""

from __future__ import annotations

import warnings
from typing import Annotated

import torch
from torch import Tensor

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.source import SourceBranch
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import Prediction, Step
from sfumato.options import Option
from sfumato.sampling.ddim import ddim_step


@inversion(
    "fixed-point",
    title="Fixed-point DDIM inversion",
    paper="Pan et al., 2023, https://arxiv.org/abs/2309.04907",
    summary="Solves each step of DDIM inversion by iteration, so that sampling follows the same path back.",
    when="The source must be reconstructed more closely than by DDIM inversion, by plain sampling.",
    cost="About 2 evaluations a step, at most 10; more with few steps, twice that with guidance.",
)
@torch.no_grad()
def fixed_point_inversion(
    task: InversionTask,
    *,
    iterations: Annotated[
        int, Option("largest number of iterations a step, each one evaluation (two with guidance)", low=1)
    ] = 10,
    tolerance: Annotated[
        float, Option("residual, relative to the latents, at which a step is solved; lower is slower", low=0)
    ] = 1e-4,
) -> Inversion:
    """Inverts clean latents such that each sampling step returns to the latents before it.

    Costs at most 1 + N iterations network evaluations an image, twice that with guidance.

    Returns:
        Noise, trajectory, the grid, and as `residuals` ||x_prev - D(x)|| / ||x_prev|| of each iterate that was looked
        at; the smallest of a step is that of the latents taken.

    Warns:
        UserWarning: Some steps were not solved, not to ten times the tolerance.
    """
    steps, source, latents = task.steps, task.source(), task.clean
    residuals = torch.full((len(steps), len(latents), iterations), float("nan"))

    trajectory = [latents]
    prediction = source.predict(latents, steps[-1].time, steps[-1].level_prev)
    for step in task.over(steps[::-1]):
        guess = ddim_step(prediction, step.level_prev, step.level)
        latents, prediction = _solve(source, guess, latents, step, tolerance, residuals[step.index])
        trajectory.append(latents)

    best = residuals.nan_to_num(nan=torch.inf).amin(dim=-1)  # (steps, image)
    unsolved = int((best > 10.0 * tolerance).any(dim=-1).sum())
    if unsolved:
        warnings.warn(
            f"fixed-point inversion did not solve {unsolved} of {len(steps)} steps to {10.0 * tolerance:g} (worst"
            f" relative residual {float(best.max()):.1e}): raise iterations, use more steps, or lower the source's"
            " guidance",
            stacklevel=2,
        )
    return task.inversion("fixed-point", latents, trajectory=torch.stack(trajectory), residuals=residuals)


def _solve(
    source: SourceBranch, guess: Tensor, latents_prev: Tensor, step: Step, tolerance: float, residuals: Tensor
) -> tuple[Tensor, Prediction]:
    """Latents at the step's level that the step carries to `latents_prev`, and the prediction there.

    Fills `residuals`, (image, iterations). Each image stops by itself.
    """
    # by how much latents must move for the step's result to: where the predicted noise, a flow's velocity, stays
    flow = source.model.schedule.target == "flow"
    factor = 1.0 if flow else step.level.signal / step.level_prev.signal
    best, x0, eps = guess.clone(), torch.zeros_like(guess), torch.zeros_like(guess)
    smallest = torch.full((len(guess),), torch.inf)
    active, current = list(range(len(guess))), guess
    for iteration in range(residuals.shape[1]):
        prediction = source.predict(current, step.time, step.level, active)
        left = latents_prev[active] - ddim_step(prediction, step.level, step.level_prev)
        size = left.flatten(1).norm(dim=1) / latents_prev[active].flatten(1).norm(dim=1).clamp(min=1e-12)
        residuals[active, iteration] = size.float().cpu()
        for row, image in enumerate(active):
            if residuals[image, iteration] < smallest[image]:
                smallest[image] = residuals[image, iteration]
                best[image], x0[image], eps[image] = current[row], prediction.x0[row], prediction.eps[row]
        going = [row for row, image in enumerate(active) if residuals[image, iteration] > tolerance]
        if not going:
            break
        current, active = (current + factor * left)[going], [active[row] for row in going]
    return best, Prediction(x0, eps)
