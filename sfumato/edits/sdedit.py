"""SDEdit (Meng et al., 2022), https://arxiv.org/abs/2108.01073: add noise to the picture, then take it away again.

The model's prior mends what does not look right to it; with a text-to-image model, what does not fit the target prompt.
How far the noise goes is the one trade-off: little keeps the picture, much lets the edit through.

Differs from the paper: a model of text, with guidance; any number of steps. `eta` 1 is the paper's stochastic sampler
(its Alg. 4, the variance-preserving SDE); 0 is the deterministic one of most "image to image" pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.branches import picture_of, target_branches, with_source
from sfumato.edits.result import LatentEdit
from sfumato.errors import UsageError
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.schedules import add_noise
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import Guide, OnStep, sample
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch


@method(
    "sdedit",
    title="SDEdit",
    paper="Meng et al., 2022, https://arxiv.org/abs/2108.01073",
    summary="Adds noise to the picture and lets the model take it away again under the target prompt.",
    when="The picture is a sketch, a collage or a bad rendering that shall look right; or as a baseline.",
    cost="2 evaluations a step that is run (1 at guidance 1), times repeats.",
    inversions=(),
)
def sdedit(
    model: Model,
    source: Inversion,
    *,
    source_prompt: str,
    target_prompts: Sequence[str],
    negative_prompt: str = "",
    guidance_scale: float = 7.5,
    source_guidance_scale: float | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    watch: Watch | None = None,
    noise: Tensor | None = None,
    strength: Annotated[
        float, Option("how much noise, as share of the steps: 0 keeps the picture, 1 forgets it", low=0, high=1)
    ] = 0.6,
    eta: Annotated[float, Option("fresh noise at each step: 1 as in the paper, 0 none", low=0, high=1)] = 1.0,
    repeats: Annotated[int, Option("how often to add noise and take it away; more looks more real", low=1)] = 1,
) -> LatentEdit:
    """Edits from the picture itself, latent to latent.

    Costs 2 targets network evaluations a step that is run (int(strength steps) of all), half of it without guidance.

    Args:
        model: Any model.
        source: The picture's latents, first noise and grid: `Inversion("picture", noise, timesteps, trajectory=clean)`;
            or drawn noise, whose picture is sampled first, for as many evaluations as that takes.
        source_prompt: Not used, but for drawn noise: there it says what the picture shows.
        target_prompts: One or more prompts, done in one batch.
        negative_prompt: What guidance leads away from.
        guidance_scale: Of the edited branches.
        source_guidance_scale: Likewise; None: as the edited branches.
        generator: Draws the noise of the steps, and of repeats after the first.
        on_step: Called after every step with the edited branches.
        watch: Progress, previews, cancellation.
        noise: All draws in place of the generator's: for each repeat the first noise, then one a step that is run,
            (repeats (run steps + 1), image, channels, height, width); `source.noise` is not used then.
        strength, eta, repeats: see their `Option`.

    Returns:
        Branches "source" (the picture's own latents) and "target" ("target-1", ... when several).

    Raises:
        UsageError: An option out of range, or noise of another shape.
    """
    scale = guidance_scale if source_guidance_scale is None else source_guidance_scale
    source, drawn = picture_of(model, source, source_prompt, negative_prompt, scale, watch=watch), source
    clean, steps = source.clean.to(model.device), len(source.timesteps)
    start = first_step(strength, steps)
    branches = target_branches(model, target_prompts, negative_prompt, guidance_scale)
    edited = clean.expand(len(branches), *clean.shape)
    if start < steps:
        edited = renoised(
            model, edited, branches, timesteps=source.timesteps, start_index=start, eta=eta, repeats=repeats,
            first_noise=source.noise if drawn is source else None, noise=noise, generator=generator, on_step=on_step,
            watch=watch,
        )  # fmt: skip
    return with_source(clean, edited, branches, notes=strength_notes(strength, steps))


def renoised(
    model: Model,
    latents: Tensor,
    branches: Mapping[str, Branch],
    *,
    timesteps: Sequence[int],
    start_index: int,
    eta: float,
    repeats: int = 1,
    first_noise: Tensor | None = None,
    noise: Tensor | None = None,
    generator: Generators = None,
    on_step: Sequence[OnStep] = (),
    guide: Guide | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Adds noise up to the level of step `start_index`, and samples from there; `repeats` times.

    Args:
        model: Any model.
        latents: Clean latents, (branch, image, channels, height, width).
        branches: What each branch is denoised to.
        timesteps, start_index, eta, generator, on_step, guide, watch: See `sample`.
        repeats: At least 1.
        first_noise: First noise of the first repeat, (image, channels, height, width); None: drawn.
        noise: All draws, see `sdedit`.

    Returns:
        Clean latents, (branch, image, channels, height, width).
    """
    grid = model.schedule.steps(timesteps=timesteps)
    shape, run = latents.shape[1:], len(grid) - start_index
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, got {repeats}")
    if noise is not None and noise.shape != (repeats * (run + 1), *shape):
        raise UsageError(
            f"noise must be {(repeats * (run + 1), *shape)}: {repeats} times a first noise and one for each of {run}"
            f" steps; got {tuple(noise.shape)}"
        )
    for repeat in range(repeats):
        replay = None
        if noise is not None:
            first, *_ = draws = noise[repeat * (run + 1) : (repeat + 1) * (run + 1)].to(latents)
            maps = torch.cat([latents.new_zeros(start_index, *shape), draws[1:]])
            replay = Inversion("given", first, tuple(timesteps), noise_maps=maps)
        elif repeat == 0 and first_noise is not None:
            first = first_noise.to(latents)
        else:
            first = draw_noise(shape, generator, latents)
        latents = sample(
            model,
            add_noise(latents, first, grid[start_index].alpha_bar),
            branches,
            timesteps=timesteps,
            start_index=start_index,
            eta=eta,
            generator=generator,
            replay=replay,
            on_step=on_step,
            guide=guide,
            watch=watch,
        )
    return latents
