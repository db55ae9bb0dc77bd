"""RF-Edit (Wang et al., 2024), https://arxiv.org/abs/2411.04746: attention values of the inverted image.

Sampling from the inversion takes the inversion's own solver. In its first steps the later attention layers use the
values V that they had in the inversion, over the same interval, for all tokens, those of the text included.

Differs from the authors' code: values are computed anew from the inversion's latents in the step that uses them, where
theirs keep gigabytes from the inversion; layers are chosen by where they stand in the network, not by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from sfumato.attention.values import ValueSharing
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import ModelError
from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.layout import Branch
from sfumato.sampling.shares import window_notes
from sfumato.sampling.solvers import CarriedMidpoint, Interval, Solver, Velocity, euler

SharedSteps = Annotated[
    float, Option("share of the steps, from the first, that use the image's values; higher keeps more", low=0, high=1)
]
SharedLayers = Annotated[
    tuple[float, float],
    Option("where in the network the layers are that do, from 0 (first) to 1 (last)", low=0, high=1),
]
REFUSED = {
    **dict.fromkeys(("direct", "null-text", "negative-prompt", "bdia"), "it replays no source branch; use ddim"),
    **dict.fromkeys(("edit-friendly", "dpm-encoder"), "it belongs to a stochastic sampler"),
    "regularised-ddim": "it needs a diffusion's noise levels",
}


@edit_method(
    "rf-edit",
    summary="Samples the target prompt from the inversion, with attention values of the image at first.",
    when="On FLUX, to keep look and layout without a mask; with inversion fireflow at half the price.",
    cost="2 evaluations a step, and 2 a step that shares values, plus the inversion's; half with inversion fireflow.",
    inversions=("rf-solver", "fireflow", "ddim", "fixed-point"),
    needs=("flow", "joint-attention"),
    refuses=REFUSED,
)
def rf_edit(
    task: EditTask, *, shared_steps: SharedSteps = 0.2, shared_layers: SharedLayers = (0.69, 1.0)
) -> LatentEdit:
    """Samples the targets from the inverted noise.

    Args:
        task: From an inversion with its trajectory, or from drawn noise, which is sampled first.
        shared_steps, shared_layers: See their `Option`; the authors' are the second half of FLUX's single blocks.

    Raises:
        ModelError: No layer stands there.
    """
    names = [site.name for site in task.model.sites(task.latent_size)]
    places = [index / max(len(names) - 1, 1) for index in range(len(names))]
    low, high = shared_layers
    chosen = [name for name, place in zip(names, places, strict=True) if low - 1e-6 <= place <= high + 1e-6]
    if not chosen:
        raise ModelError(f"no attention layer of {task.model.name} stands in shared_layers={list(shared_layers)}")
    count = int(shared_steps * task.num_steps + 1e-6)
    notes = window_notes(task.num_steps, shared_steps=shared_steps)
    return task.edited(sampled_with_values(task, chosen, count), source=task.with_latents.clean, notes=notes)


def sampled_with_values(task: EditTask, layer_names: list[str], shared: int) -> Tensor:
    """Samples the targets by the inversion's solver, with the image's values in the first `shared` steps.

    Returns:
        Clean latents, (target, image, channels, height, width).
    """
    source, sharing, steps = task.with_latents, ValueSharing(layer_names), task.steps_from(0)
    own = task.guided({"source": Branch(task.source_branch.condition)}, steps)
    solver: Solver = source.solver or euler

    def solve(velocity: Velocity, latents: Tensor, interval: Interval) -> Tensor:
        velocity = partial(_named, sharing, velocity, interval.time)
        if interval.index >= shared:
            return solver(velocity, latents, interval)
        step = steps[interval.index]
        up = Interval.up(step)
        with sharing.keeping():
            velocity_up = partial(_named, sharing, lambda x, time: own.output(x[None], step, time=time)[0], up.time)
            _solver_up(source, steps, interval.index)(
                velocity_up, source.latents_at(interval.index + 1).to(latents), up
            )
        with sharing.putting():
            return solver(velocity, latents, interval)

    sites = [site for site in task.model.sites(task.latent_size) if site.name in sharing.names]
    with torch.no_grad(), task.model.kernel_hook(sharing, sites):
        return task.sample(source.noise, task.targets, solver=solve)


def _named(sharing: ValueSharing, velocity: Velocity, first: float, latents: Tensor, time: float) -> Tensor:
    """A velocity whose network call has a name: the one where an interval begins, or one within."""
    sharing.call = "first" if time == first else "within"
    return velocity(latents, time)


def _solver_up(source: Inversion, steps: Sequence[Step], index: int) -> Solver:
    """The inversion's solver as it was at the step of an index, which it walked upwards."""
    solver = source.solver or euler
    if isinstance(solver, CarriedMidpoint) and index + 1 < len(steps):
        # what it carried is how far it went in the step before, divided by that step's length
        way = source.latents_at(index + 1) - source.latents_at(index + 2)
        return CarriedMidpoint(way / Interval.up(steps[index + 1]).length)
    return solver
