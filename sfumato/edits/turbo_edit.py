r"""TurboEdit (Deutch et al., 2024), https://arxiv.org/abs/2408.00735: noise maps replayed in three or four steps.

The inversion keeps noise maps of latents that are less noisy than their timesteps say (`inversions/shifted.py`). The
edit replays them under the target prompt, with pseudo-guidance: the difference between the predictions for target and
source, at the same latents, is taken w times. As DDPM's mean is linear in the prediction, the paper's three terms are
one step with noise map z and the guided prediction

.. math:: y_{i+1} = \mu\bigl(y_i,\; e(y_i, \text{source}) + w\,(e(y_i, \text{target}) - e(y_i, \text{source}))\bigr)
          + k_i z_i,

so this is guidance with the source prompt in the place of the negative one. k bounds the last map.

Differs from the authors' code (github.com/GiilDe/turbo-edit): the bound is a root mean square, so that it holds for
any size (theirs, a norm of 15.5 at 4 x 64 x 64, is 0.121) and each image of a batch; the reconstruction is the image
itself; a network that takes the guidance scale as an input is given 1, and w acts all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.known_source import with_source
from sfumato.edits.method import edit_method
from sfumato.edits.noise_map_replay import WITHOUT_NOISE, WITHOUT_NOISE_MAPS, check_origin
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.result import Inversion
from sfumato.inversions.shifted import shifted_edit_friendly
from sfumato.inversions.task import InversionTask
from sfumato.options import Option
from sfumato.sampling.guidance import classifier_free

SCALED = "its noise maps are those of latents at the levels of their own timesteps"


@edit_method(
    "turbo-edit",
    summary="Replays noise maps under the target prompt in three or four steps, on a few-step model.",
    when="A fast edit of a real image with a distilled model such as SDXL-Turbo.",
    cost="2 evaluations a step that is run and target (1 at w 1), plus the inversion's.",
    inversions=("shifted-edit-friendly",),
    refuses={
        **WITHOUT_NOISE_MAPS,
        "ddim": WITHOUT_NOISE,
        "edit-friendly": SCALED,
        "dpm-encoder": SCALED,
    },
    guidance_interval=False,
)
def turbo_edit(
    task: EditTask,
    *,
    w: Annotated[
        float, Option("pseudo-guidance: how often the difference between the prompts counts; 1 is off", low=0, high=10)
    ] = 1.5,
    max_rms: Annotated[
        float | None,
        Option("bound on the last noise map, as root mean square; lower keeps less residue; none: no bound", low=0),
    ] = 0.121,
    bounds: Sequence[float | None] | None = None,
) -> LatentEdit:
    """Replays the noise maps of the inversion under the target prompts.

    Costs 2 network evaluations a target for each step, 1 at w 1. Guidance scales and the negative prompt have no part.

    Args:
        task: From a shifted edit-friendly inversion; or from drawn noise, which is sampled and inverted first.
        w, max_rms: See their `Option`.
        bounds: A bound for each step of the grid in place of `max_rms`; None: no bound at that step.

    Raises:
        InversionError: The inversion has no maps of shifted latents.
        UsageError: An option is out of range, or there are not as many bounds as steps.
    """
    task = _with_maps(task)
    source, count = task.source, task.num_steps
    limits: list[float | None] = [*[None] * (count - 1), max_rms] if bounds is None else list(bounds)
    if len(limits) != count:
        raise UsageError(f"bounds must be one for each of {count} steps, got {len(limits)}")
    assert source.noise_maps is not None
    maps = [_bounded(noise_map, limit) for noise_map, limit in zip(source.noise_maps, limits, strict=True)]

    known = task.source_branch.condition
    branches = {name: replace(branch, negative=known, guidance_scale=w) for name, branch in task.branches.items()}
    del branches["source"]
    hooks = [with_source(source, hook) for hook in task.on_step]
    latents = replace(task, on_step=hooks).sample(
        source.latents_at(source.start_index), branches, replay=replace(source, noise_maps=torch.stack(maps)),
        guide=classifier_free,
    )  # fmt: skip
    return task.edited(latents, source=source.clean, notes=_start_notes(source))


def _with_maps(task: EditTask) -> EditTask:
    """The task from shifted noise maps, which are made where the source is drawn noise."""
    source = task.source
    if source.trajectory is None and source.noise_maps is None:
        drawn = task.with_latents.clean
        source = shifted_edit_friendly(
            InversionTask(
                task.model, drawn, task.source_branch.condition, timesteps=source.timesteps, generator=task.generator,
                watch=task.watch,
            )
        )  # fmt: skip
        return replace(task, source=source)
    if source.noise_maps is None or not source.unscaled_maps:
        raise InversionError(
            f"a {source.method} inversion has no maps of shifted latents: invert with shifted-edit-friendly"
        )
    check_origin(source, task.source_prompt, source.guidance_scale)  # made without any, whatever it was asked for
    return task


def _start_notes(source: Inversion) -> tuple[str, ...]:
    """What there is to say of a run that is too short for its first latents to be noisy ones."""
    if not torch.equal(source.latents_at(source.start_index), source.clean):
        return ()
    run, count = len(source.timesteps) - source.start_index, len(source.timesteps)
    few = f"{run} of {count} steps {'is' if run == 1 else 'are'} run, from the image without noise"
    return (f"{few}, which is too few for TurboEdit: use 4 or 5 steps",)


def _bounded(noise_map: Tensor, limit: float | None) -> Tensor:
    """A noise map, (image, channels, height, width), scaled down to a root mean square of at most `limit`."""
    if limit is None:
        return noise_map
    rms = noise_map.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return noise_map * (limit / rms.clamp(min=1e-12)).clamp(max=1.0)
