"""What inversions of rectified flows share: latents walk from the image to noise by a solver."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from sfumato.errors import ModelError
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Condition
from sfumato.models.schedules import Step
from sfumato.sampling.branches import GuidedBranches
from sfumato.sampling.layout import Branch
from sfumato.sampling.solvers import Interval, Solver


def intervals_up(task: InversionTask, count: int | None = None) -> list[Interval]:
    """The last `count` steps of the grid, from the image on; None: all."""
    steps = task.steps[::-1]
    return [Interval.up(step) for step in (steps if count is None else steps[:count])]


def walked(
    task: InversionTask,
    solver: Solver,
    intervals: Sequence[Interval],
    *,
    condition: Condition | None = None,
    guidance_scale: float = 1.0,
) -> list[Tensor]:
    """The clean latents, and the latents after each interval, each (image, channels, height, width).

    Args:
        task: Of the images.
        solver: For this walk.
        intervals: In the order in which they are walked; those of `intervals_up`.
        condition: In the place of the source prompt.
        guidance_scale: Of the walk, 1 = off.

    Raises:
        ModelError: The model is no rectified flow.
    """
    check_flow(task)
    steps, latents = task.steps, task.clean
    source = Branch(task.condition if condition is None else condition, task.negative, guidance_scale)
    branch = GuidedBranches(task.model, {"source": source}, len(latents), steps)
    trajectory = [latents]
    for interval in task.over(intervals):
        velocity = partial(_velocity, branch, steps[interval.index])
        latents = latents + interval.length * solver(velocity, latents, interval)
        trajectory.append(latents)
    return trajectory


def check_flow(task: InversionTask) -> None:
    """Raises a `ModelError` for a model without the levels between those of its grid."""
    if task.model.schedule.target != "flow":
        raise ModelError(
            f"{task.model.name} is no rectified flow, as Stable Diffusion 3 and FLUX are: it has no levels between"
            " those of its grid; use inversion ddim or fixed-point"
        )


def _velocity(branch: GuidedBranches, step: Step, latents: Tensor, time: float) -> Tensor:
    return branch.output(latents[None], step, time=time)[0]
