r"""ReNoise (Garibi et al., 2024), https://arxiv.org/abs/2403.14602: each step is inverted several times, and averaged.

A sampling step goes from latents x with the noise predicted there to known x_prev. Its inverse needs the noise at x,
which is what is sought: so x is guessed, the noise predicted at the guess gives the next guess, and so on. Where that
does not settle, as in the long steps of few-step models, the mean of the last guesses is nearer than any of them.

A sampler that adds noise is inverted for draws of it, and the draws are then corrected, so that the step ends
at x_prev exactly; but for the last one, which adds none.

Written from the paper, without its losses that keep the predicted noise like noise (edit enhancement); the authors'
code has no licence and was not read. `fixed-point` runs the same iteration until it settles, and takes the best guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated

import torch
from torch import Tensor

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import Prediction, Step
from sfumato.options import Option
from sfumato.sampling.ddim import ddim_std, ddim_step
from sfumato.sampling.draws import given_or_drawn

FEW_STEP_RENOISING, RENOISING = 9, 1
"""Guesses after the first one: of the authors' demo for few-step models, and for models of many steps."""


@inversion(
    "renoise",
    summary="Inverts each step again at what the inversion gave, several times, and averages the last results.",
    when="A few-step model, whose long steps DDIM inversion misses by far; or a closer reconstruction with many steps.",
    cost="2 evaluations a step, 10 on a few-step model; twice that with source guidance; 1 more to correct noise.",
    serves_like="fixed-point",
)
@torch.no_grad()
def renoise(
    task: InversionTask,
    *,
    noise: Tensor | None = None,
    weights: Sequence[float] | None = None,
    renoising_steps: Annotated[
        int | None,
        Option(
            f"how often a step is inverted again, each one evaluation; none: {FEW_STEP_RENOISING} on a few-step model,"
            f" else {RENOISING}",
            low=0,
            high=100,
        ),
    ] = None,
    average: Annotated[
        int, Option("how many of the last results are averaged; 1 takes the last; never the first one", low=1, high=100)
    ] = 2,
    eta: Annotated[
        float, Option("share of fresh noise at each step of the sampler: 0 is DDIM, 1 is DDPM", low=0, high=1)
    ] = 0.0,
    correct_noise: Annotated[
        bool, Option("correct the draws of a sampler that adds noise, so that it reconstructs the image")
    ] = True,
) -> Inversion:
    """Inverts clean latents, each step again and again at its own result.

    Costs 1 + renoising_steps network evaluations a step and image, twice that with guidance; one more a step that adds
    noise, where its draw is corrected.

    Args:
        task: What to invert; its generator makes the draws of eta above 0, all in one call, noisiest step first.
        noise: The draws instead, (steps, image, channels, height, width).
        weights: Of all results of a step, in their order, in place of `renoising_steps` and `average`; their sum is 1.
        renoising_steps, average, eta, correct_noise: See their `Option`.

    Returns:
        Noise, trajectory and the grid; with eta above 0 the draws as noise maps.

    Raises:
        UsageError: An option is out of range, or the noise has another shape.
    """
    shares = _weights(task, renoising_steps, average) if weights is None else list(weights)
    steps, source, latents = task.steps, task.source(), task.clean
    shape = (len(steps), *latents.shape)
    draws = given_or_drawn(noise, shape, task.generator, latents, each="a step").clone() if eta > 0.0 else None
    trajectory = [latents]
    for step in task.over(steps[::-1]):
        known, draw = latents, None if draws is None else draws[step.index]
        guess, mean = known, torch.zeros_like(known)
        for share in shares:
            prediction = source.predict(guess, step.time, step.level)
            guess = _inverted(known, prediction.eps, step, eta, draw)
            mean = mean + share * guess
        latents = mean
        std = ddim_std(step.level, step.level_prev, eta)
        if draws is not None and correct_noise and std > 0.0:
            prediction = source.predict(latents, step.time, step.level)
            reached = ddim_step(prediction, step.level, step.level_prev, eta=eta, noise=torch.zeros_like(known))
            draws[step.index] = (known - reached) / std
        trajectory.append(latents)
    return task.inversion("renoise", latents, trajectory=torch.stack(trajectory), noise_maps=draws, eta=eta)


def _inverted(known: Tensor, eps: Tensor, step: Step, eta: float, draw: Tensor | None) -> Tensor:
    """Latents that the step carries to `known` if the noise predicted at them is `eps`."""
    std = ddim_std(step.level, step.level_prev, eta)
    kept = sqrt(max(step.level_prev.noise**2 - std**2, 0.0))
    left = known if draw is None else known - std * draw
    clean = (left - kept * eps) / step.level_prev.signal
    return ddim_step(Prediction(clean, eps), step.level_prev, step.level)


def _weights(task: InversionTask, renoising_steps: int | None, average: int) -> list[float]:
    """Weights of all results of a step; the first is in the mean only where there is no other."""
    again = renoising_steps
    if again is None:
        again = FEW_STEP_RENOISING if task.model.few_steps else RENOISING
    taken = min(average, max(again, 1))
    return [0.0] * (again + 1 - taken) + [1.0 / taken] * taken
