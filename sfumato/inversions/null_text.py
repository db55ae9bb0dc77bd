"""Null-text inversion (Mokady et al., 2022), https://arxiv.org/abs/2211.09794: tunes the empty prompt's embedding.

DDIM inversion without guidance gives the pivot, a trajectory from the image to noise. Sampling with guidance leaves it.
So at every step the unconditional embedding, that of the empty prompt, is tuned until the guided step ends on the
pivot.

Equal to the authors' code (github.com/google/prompt-to-prompt, null_text_w_ptp.ipynb): a new Adam at each step, its
learning rate lr (1 - i / 100), the stop rule, one update before the stop is tested. Differs from it: the conditional
prediction of a step is made once and used again for the step itself; the learning rate falls by 1 / N a step where
there are more than 100 steps (theirs would become negative); where a negative prompt is given, tuning starts from it.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.source import SourceBranch
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.ddim import ddim_step

MISSED = 0.1  # relative error of the latents that a user sees: 20 dB


@inversion(
    "null-text",
    summary="Tunes the empty prompt's embedding at every step until guided sampling reconstructs the image.",
    when="The source must be reconstructed under guidance by sampling alone, and minutes per image are acceptable.",
    cost="Up to 13 evaluations a step, 10 of them with a backward pass.",
    source_guidance_scale=None,
)
def null_text_inversion(
    task: InversionTask,
    *,
    inner_steps: Annotated[
        int, Option("largest number of updates of the embedding a step; more reconstruct better and are slower", low=1)
    ] = 10,
    learning_rate: Annotated[
        float, Option("learning rate at the first step; it falls linearly, by a hundredth of this a step", low=0)
    ] = 1e-2,
    early_stop: Annotated[
        float, Option("mean squared error below which a step is done; it rises by 2e-5 a step", low=0)
    ] = 1e-5,
) -> Inversion:
    """Finds noise and one null embedding a step that reconstruct clean latents under guidance.

    Costs at most N (1 + 2 + inner_steps) network evaluations an image, N inner_steps of them with a backward pass. At
    guidance scale 1 the empty prompt has no effect: nothing is tuned, and N evaluations are all. Images are tuned one
    after the other, so each result is that of a single run, in the memory of one.

    Returns:
        Noise, pivot (as trajectory), the grid, `null_embeds`, and as `residuals` each loss: the mean squared difference
        between the guided step and the pivot before each update.

    Warns:
        UserWarning: The replay misses the image by more than a tenth of its norm.
    """
    results = [
        _one_image(task.image(k), inner_steps=inner_steps, learning_rate=learning_rate, early_stop=early_stop)
        for k in range(len(task.latents))
    ]
    missed = max(miss for _, miss in results)
    if missed > MISSED:
        warnings.warn(
            f"null-text inversion does not reconstruct the image (relative error {missed:.2f} of its latents): raise"
            " inner_steps, describe the image better, lower the guidance scale, or choose inversion 'direct'",
            stacklevel=2,
        )
    parts = [inversion for inversion, _ in results]

    def together(name: str, axis: int) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], dim=axis)

    return replace(
        parts[0],
        noise=together("noise", 0),
        trajectory=together("trajectory", 1),
        null_embeds=together("null_embeds", 1),
        residuals=together("residuals", 1),
    )


@torch.no_grad()
def _one_image(
    task: InversionTask, *, inner_steps: int, learning_rate: float, early_stop: float
) -> tuple[Inversion, float]:
    """The inversion of one image, and the relative error of its replay."""
    pivot = ddim_inversion(task)
    steps, source = task.steps, task.source()
    moved, embeds = pivot.noise, source.uncond.text.to(pivot.noise)
    null_embeds, losses = [], torch.full((len(steps), 1, inner_steps), float("nan"))

    for step in task.watch.during("optimising").over(steps if task.guidance_scale != 1.0 else []):
        target = pivot.latents_at(step.index + 1)
        tuning = _Tuning(task.model, moved, step, source, target)
        # The 100 is a constant of the authors' code, not the number of steps
        rate = learning_rate * (1.0 - step.index / max(100, len(steps)))
        embeds, history = tuning.minimise(embeds, inner_steps, rate, early_stop + step.index * 2e-5)
        losses[step.index, 0, : len(history)] = torch.tensor(history)
        null_embeds.append(embeds)
        moved = tuning.step(embeds)

    missed = 0.0
    if task.guidance_scale != 1.0:
        missed = float((moved - pivot.clean).norm() / pivot.clean.norm().clamp(min=1e-12))
    tuned = torch.stack(null_embeds or [embeds] * len(steps))  # (steps, image, tokens, dim)
    return replace(pivot, method="null-text", null_embeds=tuned, residuals=losses.to(moved)), missed


class _Tuning:
    """One guided step as a function of the null embedding, (1, tokens, dim); the network itself stays frozen."""

    def __init__(self, model: Model, latents: Tensor, step: Step, source: SourceBranch, target: Tensor) -> None:
        self.model, self.latents, self.now, self.source, self.target = model, latents, step, source, target
        self._cond = model.predict(latents, step.time, source.cond)

    def step(self, embeds: Tensor) -> Tensor:
        """Latents after the guided step."""
        uncond = self.model.predict(self.latents, self.now.time, self.source.uncond.with_text(embeds))
        output = uncond + self.source.guidance_scale * (self._cond - uncond)
        prediction = self.model.schedule.split(output, self.latents, self.now.level)
        return ddim_step(prediction, self.now.level, self.now.level_prev)

    def minimise(self, start: Tensor, inner_steps: int, rate: float, enough: float) -> tuple[Tensor, list[float]]:
        """The tuned embedding, and the loss before each update."""
        embeds, losses = start.clone().requires_grad_(), []
        optimizer = torch.optim.Adam([embeds], lr=rate)  # a new one at each step: no moments are carried over
        for _ in range(inner_steps):
            with torch.enable_grad():
                loss = (self.step(embeds) - self.target).square().mean()
            (embeds.grad,) = torch.autograd.grad(loss, embeds)
            optimizer.step()
            losses.append(float(loss))
            if losses[-1] < enough:  # looked at after the update: each step makes one at least
                break
        return embeds.detach(), losses
