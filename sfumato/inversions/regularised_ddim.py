"""Regularised DDIM inversion (Parmar et al., 2023), https://arxiv.org/abs/2302.03027, section 3.2: to white noise.

DDIM inversion in which every noise prediction is moved towards white Gaussian noise: its auto-correlation at random
offsets over a pyramid of scales towards 0, its mean and variance towards 0 and 1. So edits start from noise of the kind
that the network was trained on.

Differs from the authors' code (github.com/pix2pixzero/pix2pix-zero): the inversion takes the same steps as sampling;
theirs (`grid="released"`) leaves out the first and the last step and is one level lower. The two axes have their own
offsets, each within its side, so that latents need not be square (theirs draws one from the height; the loss has the
same expectation). All channels are done at once, where theirs loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.white_noise import draw_rolls, pyramid_levels, regularised
from sfumato.models.base import Condition, Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import Level, Schedule, split
from sfumato.options import Option
from sfumato.sampling.ddim import ddim_step
from sfumato.watch import Watch


class Move(NamedTuple):
    """One step of an inversion: the time that the network is conditioned on, and the levels before and after."""

    time: float
    level: Level
    level_next: Level


@inversion(
    "regularised-ddim",
    paper="Parmar et al., 2023, https://arxiv.org/abs/2302.03027, section 3.2",
    summary="DDIM inversion that keeps the noise predictions close to white Gaussian noise.",
    when="The edit is large; the reconstruction is a little worse than with plain DDIM inversion.",
    cost="1 evaluation a step.",
    needs=("diffusion",),
)
@torch.no_grad()
def regularised_ddim_inversion(
    task: InversionTask,
    *,
    rolls: Tensor | None = None,
    correlation_weight: Annotated[
        float, Option("weight of the loss that removes repeating patterns from the noise; 0 is off", low=0)
    ] = 20.0,
    gaussian_weight: Annotated[
        float, Option("weight of the loss that keeps the noise at mean 0 and variance 1; 0 is off", low=0)
    ] = 20.0,
    regularisation_rounds: Annotated[
        int, Option("rounds of regularisation a step; more make whiter noise, 0 is plain DDIM inversion", low=0)
    ] = 5,
    rolls_per_round: Annotated[
        int, Option("random offsets a round at which repeating patterns are looked for", low=0)
    ] = 5,
    grid: Annotated[
        Literal["full", "released"],
        Option("steps to take: full (those of sampling), or released (two fewer, as the authors' code)"),
    ] = "full",
) -> Inversion:
    """Inverts clean latents with regularised noise predictions.

    Costs one network evaluation a step and image; the regularisers need none. With the defaults they take 30 gradient
    steps on the noise prediction at each step.

    Args:
        task: A single generator draws one set of offsets for all images; one for each draws a set for each.
        rolls: The offsets instead, (step, round, roll, channel, level) or with a last axis (height, width), steps in
            the order of the inversion (least noisy first).

    Returns:
        Noise and grid; the trajectory x_0 ... x_T too on the full grid (the released one meets other levels).

    Raises:
        UsageError: Offsets of another shape, or fewer than 3 steps on the released grid.
    """
    if grid == "full":
        moves = [Move(step.time, step.level_prev, step.level) for step in reversed(task.steps)]
    else:
        moves = released_moves(task.model.schedule, [step.time for step in task.steps])
    shape = (len(moves), regularisation_rounds, rolls_per_round)

    def walk(part: InversionTask) -> Tensor:
        offsets = rolls
        if offsets is None:
            assert part.generator is None or isinstance(part.generator, torch.Generator)
            offsets = draw_rolls(part.clean.shape[1:], shape, part.generator)
        return regularised_walk(
            part.model, part.clean, part.condition, moves, offsets, correlation_weight, gaussian_weight,
            watch=part.watch,
        )  # fmt: skip

    shared = rolls is not None or task.generator is None or isinstance(task.generator, torch.Generator)
    images = range(len(task.latents))
    trajectory = walk(task) if shared else torch.cat([walk(task.image(k)) for k in images], dim=1)
    return task.inversion("regularised-ddim", trajectory[-1], trajectory=trajectory if grid == "full" else None)


def released_moves(schedule: Schedule, timesteps: Sequence[float]) -> list[Move]:
    """The authors' grid: without its first and last entry, each level one index below its timestep.

    Args:
        schedule: Noise levels.
        timesteps: The grid of sampling, noisiest first, at least 3 entries.

    Raises:
        UsageError: There are fewer than 3, or the schedule is not a discrete one.
    """
    if not isinstance(schedule, DiscreteVP):
        raise UsageError("grid='released' needs training timesteps, which a rectified flow does not have: use 'full'")
    if len(timesteps) < 3:
        raise UsageError(f"grid='released' leaves out 2 steps: use at least 3 steps, got {len(timesteps)}")
    stride = schedule.num_train_timesteps // len(timesteps)
    inner = sorted(timesteps)[1:-1]
    return [Move(t, schedule.level(t - 1), schedule.level(t + stride - 1)) for t in inner]


def regularised_walk(
    model: Model,
    latents: Tensor,
    condition: Condition,
    moves: Sequence[Move],
    rolls: Tensor,
    correlation_weight: float = 20.0,
    gaussian_weight: float = 20.0,
    *,
    watch: Watch | None = None,
) -> Tensor:
    """Walks the moves: (moves + 1, image, channels, height, width), the given latents first; see the inversion.

    Raises:
        UsageError: The offsets do not fit the moves or the latents.
    """
    _check_rolls(rolls, len(moves), latents.shape[1:], correlation_weight)
    rows = condition.expand(len(latents))
    rolls = rolls.to(latents.device)
    trajectory = [latents]
    for index, move in enumerate((watch or Watch()).during("inverting").over(moves)):
        noise_pred = model.predict_noise(latents, move.time, rows, level=move.level)
        noise_pred = regularised(noise_pred, rolls[index], correlation_weight, gaussian_weight)
        # The DDIM step with its levels exchanged: from the less noisy to the noisier one
        latents = ddim_step(split(noise_pred, latents, move.level, "noise"), move.level, move.level_next)
        trajectory.append(latents)
    return torch.stack(trajectory)


def _check_rolls(rolls: Tensor, moves: int, latent_shape: Sequence[int], correlation_weight: float) -> None:
    channels, height, width = latent_shape
    levels = pyramid_levels(height, width)
    fits = rolls.ndim in (5, 6) and tuple(rolls.shape[3:5]) == (channels, levels) and rolls.shape[5:] in ((), (2,))
    if len(rolls) != moves or not fits:
        raise UsageError(
            f"rolls must be (step, round, roll, channel, level[, 2]) with {moves} steps, {channels} channels and"
            f" {levels} levels, got {tuple(rolls.shape)}"
        )
