r"""ChordEdit (Lu et al., 2026), https://arxiv.org/abs/2602.19083: an edit in one network call, on a one-step model.

At a noise level t the predictions of the clean latents for the two prompts differ by D(t). The edit follows the mean of
this difference at two levels, weighted so that it is that of a chord of the path rather than of a point,

.. math:: y \leftarrow y + \text{size} \cdot \frac{\delta D(t) + t D(t - \delta)}{t + \delta},

and, for detail, ends with the target's prediction at a low noise level.

As in the authors' code (github.com/ChordEdit/ChordEdit): the less noisy level has the larger weight; with several steps
the source's latents, too, are made from what was edited so far; all steps have the same draws.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.clean_difference import Differences, held
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.models.schedules import add_noise
from sfumato.options import Option
from sfumato.sampling.draws import given_or_drawn

_SMALLEST = 1e-6


@edit_method(
    "chord-edit",
    summary="Adds the difference between the predictions for the two prompts at two noise levels to the image.",
    when="The fastest edit of a real image: one network call on a one-step model such as SD-Turbo, two with cleanup.",
    cost="5 evaluations with one target (4 without cleanup), in one or two calls; twice that with guidance.",
    inversions=(),
    guidance_scale=1.0,
    guidance_interval=False,
    cache_interval=False,
)
def chord_edit(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    t_start: Annotated[
        float, Option("noise level of the edit, as share of all; higher changes more", low=0, high=1)
    ] = 0.9,
    t_delta: Annotated[
        float, Option("distance of the second, less noisy level; 0 takes one level alone", low=0, high=1)
    ] = 0.15,
    t_end: Annotated[
        float, Option("noise level of the cleanup, and of the last of several steps", low=0, high=1)
    ] = 0.3,
    num_edit_steps: Annotated[int, Option("steps, from t_start down to t_end", low=1, high=100)] = 1,
    step_size: Annotated[float, Option("factor on each step; higher changes more", low=0, high=10)] = 1.0,
    noise_samples: Annotated[
        int, Option("draws of noise that are averaged; more are steadier and slower", low=1, high=100)
    ] = 1,
    cleanup: Annotated[bool, Option("end with the prediction for the target prompt at the noise level t_end")] = True,
) -> LatentEdit:
    """Edits by differences of clean predictions at two levels.

    Costs, for each step and draw, 2 network evaluations at each of the two levels and target, and 1 a target for the
    cleanup; twice that where a branch is guided. The number of denoising steps has no part.

    Args:
        task: From latents of the images, or from drawn noise, which is sampled first. Its generator draws the noise.
        noise: The draws, (noise_samples, image, channels, height, width).
        t_start, t_delta, t_end, num_edit_steps, step_size, noise_samples, cleanup: See their `Option`.

    Raises:
        UsageError: An option is out of range, several steps would go up, or the noise has another shape.
    """
    if num_edit_steps > 1 and t_end > t_start:
        raise UsageError(
            f"num_edit_steps={num_edit_steps} go from t_start down to t_end: t_end must be at most {t_start:g}, got"
            f" {t_end:g}"
        )
    schedule = task.model.schedule
    clean = task.with_latents.clean.to(task.model.device).float()
    shape = (noise_samples, *clean.shape)
    draws = given_or_drawn(noise, shape, task.generator, clean, each="a sample")
    differences = Differences(task, levels=2, source_per_target=True)
    edited = clean.expand(len(task.target_prompts), *clean.shape)
    times = torch.linspace(t_start, t_end, num_edit_steps).tolist() if num_edit_steps > 1 else [t_start]
    for index, t in enumerate(task.watch.over(times)):
        delta = min(t_delta, max(t - 1.0 / 999.0, 0.0))
        levels = [[schedule.time_at(level)] * len(clean) for level in (t, t - delta)]
        pairs = [differences(edited, edited, draw, levels) for draw in draws]
        here, there = (torch.stack([pair[k].clean for pair in pairs]).mean(dim=0) for k in (0, 1))
        field = here if t + delta <= _SMALLEST else (delta * here + t * there) / (t + delta)
        edited = held(task, clean, edited + step_size * field, index, len(times), levels[0][0])
    if cleanup:
        time = schedule.time_at(t_end)
        noisy = add_noise(edited, draws[0], schedule.level(time))
        first = task.steps_from(0)[0]
        said = task.guided(task.targets, [first]).predict_at(noisy, [[time] * len(clean)] * len(edited), first)
        edited = held(task, clean, said.x0, len(times) - 1, len(times), time)
    return task.edited(edited, source=clean)
