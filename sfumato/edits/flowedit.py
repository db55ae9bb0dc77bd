r"""FlowEdit (Kulikov et al., 2024), https://arxiv.org/abs/2412.08629: from image to image without inversion.

The path from the image to its edit is the difference of two flows, that of the target prompt and that of the source
prompt, both at the noise of one fresh draw a step. No prompt ever changes what equals it: equal prompts at equal
guidance give the image back exactly.

On any network: with levels (s, n), u = n / (s + n) and its value u' after the step, the edit goes to

.. math:: z' = x + \frac{u'}{u} (z - x) + \left(1 - \frac{u'}{u}\right) (\hat x_0^{tar} - \hat x_0^{src})

where the network sees x_src = s x + n \epsilon and x_tar = x_src + (s + n)(z - x). On a flow, s + n = 1, this is the
paper's z + (u' - u)(v_tar - v_src); on a diffusion it is the form that its first author gives (FlowEdit issue 3).

Differs from the authors' code: source and targets are one network call; the run's share is given as `strength`
(their n_max) and the share of plain steps at its end as `plain_end` (their n_min).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.models.base import Model
from sfumato.models.schedules import Level, add_noise
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.shares import Strength, first_step, strength_notes, window_notes


@edit_method(
    "flowedit",
    summary="Follows the difference between the flows of target and source prompt, from the image on.",
    when="The first choice on a flow model: no inversion, and the layout mostly stays.",
    cost="4 evaluations a step that is run (2 where the network takes the guidance scale as an input), times draws.",
    inversions=(),
    takes_mask=True,
    cache_interval=False,
)
def flowedit(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    strength: Strength = 0.7,
    plain_end: Annotated[
        float,
        Option(
            "share of the steps, at the end, that sample the target prompt plainly; higher keeps less of the image's"
            " texture",
            low=0,
            high=1,
        ),
    ] = 0.0,
    draws: Annotated[int, Option("draws of noise a step whose edits are averaged; more are smoother", low=1)] = 1,
    source_guidance: Annotated[
        float | None,
        Option(
            "guidance scale of the source prompt; closer to the target's changes less; none: 1.5, or 1 on a few-step"
            " model that is run without guidance",
            low=0,
            high=100,
        ),
    ] = None,
) -> LatentEdit:
    """Moves the images along the difference of two flows.

    Args:
        task: From latents of the images, or from drawn noise, which is sampled first. Outside its mask the images stay.
        noise: All draws in order of use, in place of the generator's, (draws, image, channels, height, width).
        strength, plain_end, draws, source_guidance: See their `Option`.

    Raises:
        UsageError: An option out of range, or too few draws.
    """
    start = first_step(strength, task.num_steps)
    plain = task.num_steps - int(plain_end * task.num_steps + 1e-6)
    clean = task.with_latents.clean.to(task.model.device)
    given = iter(() if noise is None else noise)

    def draw() -> Tensor:
        if noise is None:
            return draw_noise(clean.shape, task.generator, clean)
        found = next(given, None)
        if found is None:
            raise UsageError(f"noise holds {len(noise)} draws, and the run takes more")
        given_draw: Tensor = found.to(clean)
        return given_draw

    steps = task.steps_from(start)
    own = _usual_guidance(task.model) if source_guidance is None else source_guidance
    source, *targets = task.branches.values()
    branches = task.guided(
        {"source": Branch(source.condition, source.negative, task.limited(own))}
        | dict(zip(task.names[1:], targets, strict=True)),
        steps,
    )
    edited = clean.expand(len(targets), *clean.shape)
    with torch.no_grad():
        for step in task.watch.over(steps[: max(plain - start, 0)]):
            change = torch.zeros_like(edited)
            for _ in range(draws):
                latents = _noisy(clean, edited, draw(), step.level)
                x0 = branches.predict(latents, step).x0
                change = change + (x0[1:] - x0[:1]) / draws
            # the last step ends at the clean image, also where a diffusion's own does not
            kept = 0.0 if step.time_prev < 0 else _time(step.level_prev) / _time(step.level)
            edited = clean + kept * (edited - clean) + (1.0 - kept) * change
            if task.mask is not None:
                edited = torch.where(task.mask.to(edited) > 0.5, edited, clean)
            task.watch.show(step.index, edited)
    if max(plain, start) < task.num_steps:
        first = task.steps_from(max(plain, start))[0]
        latents = _noisy(clean, edited, draw(), first.level)[1:]
        edited = task.sample(latents, task.targets, start_index=first.index)
    notes = (*strength_notes(strength, task.num_steps), *window_notes(task.num_steps, plain_end=plain_end))
    return task.edited(edited, source=clean, notes=notes)


def _noisy(clean: Tensor, edited: Tensor, noise: Tensor, level: Level) -> Tensor:
    """What the networks of source and targets see, (branch, image, channels, height, width)."""
    source = add_noise(clean, noise, level)
    return torch.cat([source[None], source + (level.signal + level.noise) * (edited - clean)])


def _usual_guidance(model: Model) -> float:
    """Of the source prompt: the paper's, but where guidance is part of the network and no input of it."""
    return 1.0 if model.few_steps and not model.takes_guidance else 1.5


def _time(level: Level) -> float:
    return level.noise / (level.signal + level.noise)
