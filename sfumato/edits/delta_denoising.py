r"""Delta Denoising Score (Hertz et al., 2023), https://arxiv.org/abs/2304.07090: the image as what is optimised.

Noise is added to source and edit alike; the difference between the noise that the network predicts for the two prompts
is the direction in which the edit moves,

.. math:: y \leftarrow y - \text{rate}\,\bigl(\hat\epsilon(s y + n \epsilon, \text{target})
          - \hat\epsilon(s x + n \epsilon, \text{source})\bigr).

What is wrong with the predictions for both alike falls out, so that what the prompts share stays.

As in the authors' notebook (google/prompt-to-prompt, DDS_zeroshot.ipynb): timesteps from 5 to 95 % of all, uniform;
200 iterations; guidance 7.5 in both branches. Their rate is 200 / (height * width) of the latents, so that it depends
on the size; here it is theirs at 64 x 64 for all sizes. "edit-friendly" rates at falling timesteps are those with which
it equals edit-friendly inversion (Deutch et al., 2024, https://arxiv.org/abs/2408.00735).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.edits.clean_difference import Differences, Times, held
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.draws import given_or_drawn, streams

LOWEST, HIGHEST = 0.05, 0.95


@edit_method(
    "delta-denoising",
    summary="Moves the image along the difference between the noise predicted for the two prompts, again and again.",
    when="The image should move no further than the prompts ask; or as the loss of a training.",
    cost="4 evaluations an iteration with one target (2 at guidance 1), 200 iterations by default.",
    inversions=(),
    guidance_interval=False,
    cache_interval=False,
)
def delta_denoising(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    times: Sequence[float] | None = None,
    iterations: Annotated[
        int, Option("how often the image is moved, with fixed rates; more change it further", low=1, high=10_000)
    ] = 200,
    rate: Annotated[float, Option("size of a move, with fixed rates; higher changes more", low=0, high=10)] = 200.0
    / 64**2,
    rates: Annotated[
        Literal["fixed", "edit-friendly"],
        Option("size of the moves: fixed (at random timesteps), or edit-friendly (one at each step of the run)"),
    ] = "fixed",
) -> LatentEdit:
    """Moves the images by differences of predicted noise.

    Costs, for each iteration, 1 network evaluation for the source and 1 a target, twice that where a branch is guided.

    Args:
        task: From latents of the images, or from drawn noise, which is sampled first. The source is guided as the
            targets are unless the task says otherwise. Its generator draws timesteps and noise.
        noise: The draws, (iterations, image, channels, height, width).
        times: Timesteps of the iterations, in place of random ones.
        iterations, rate, rates: See their `Option`.

    Raises:
        UsageError: An option is out of range, or the noise has another shape.
    """
    clean = task.with_latents.clean.to(task.model.device).float()
    steps = task.model.schedule.steps(timesteps=task.source.timesteps) if rates == "edit-friendly" else None
    given = [step.time for step in steps] if steps is not None else times
    count = iterations if given is None else len(given)
    drawn = _random_times(task, len(clean), count) if given is None else [[time] * len(clean) for time in given]
    shape = (count, *clean.shape)
    draws = given_or_drawn(noise, shape, task.generator, clean, each="an iteration")

    differences = Differences(task)
    edited = clean.expand(len(task.target_prompts), *clean.shape)
    for index in task.watch.over(range(count)):
        (pair,) = differences(clean[None], edited, draws[index], [drawn[index]])
        if steps is None:
            edited = edited - rate * pair.noise
        else:
            edited = edited + edit_friendly_weight(steps[index]) * (clean + pair.clean - edited)
        edited = held(task, clean, edited, index, count, drawn[index][0])
    return task.edited(edited, source=clean)


def edit_friendly_weight(step: Step) -> float:
    r"""How far towards the image plus the difference of clean predictions a step of edit-friendly inversion moves it.

    .. math:: y \leftarrow y + w\,(x + \Delta - y), \qquad w = 1 - \left(\frac{s\,n_{prev}}{s_{prev}\,n}\right)^2

    As predicted noise tells it, the rate is w n / s, of a diffusion (1 - alpha_bar / alpha_bar_prev) / (s n); but this
    holds for a flow, too, and at a level without signal.
    """
    return 1.0 - (step.level.signal * step.level_prev.noise / (step.level_prev.signal * step.level.noise)) ** 2


def _random_times(task: EditTask, images: int, count: int) -> list[Times]:
    """For each iteration a time for each image, from the image's own generator."""
    shares = torch.stack(
        [torch.rand(count, generator=stream, device="cpu" if stream is None else stream.device).cpu()
         for stream in streams(task.generator, images)], dim=1
    )  # fmt: skip
    schedule = task.model.schedule
    return [[schedule.time_at(LOWEST + (HIGHEST - LOWEST) * share) for share in row] for row in shares.tolist()]
