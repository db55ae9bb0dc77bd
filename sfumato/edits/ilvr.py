r"""ILVR (Choi et al., 2021), https://arxiv.org/abs/2108.02938: drawing under a coarse reference.

The model draws from noise, and after every step the coarse part of the drawing is set to that of the picture brought to
the same noise level:

.. math:: x_{prev} = x' + \phi(y_{prev}) - \phi(x'), \qquad y_{prev} \sim q(y_{prev} \mid y).

Differs from the paper: a model of text draws what the target prompt says, where the paper has a model of one domain;
the filter acts on latents where the model has them; its strength is told in cells along the picture's shorter side, so
that it means the same for every size (the paper's factor N on 256 pixels is 256 / N cells; our default, 4, is its
coarsest). After the last step the reference is the picture itself, without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from sfumato.edits.branches import picture_of, target_branches, with_source
from sfumato.edits.result import LatentEdit
from sfumato.errors import UsageError
from sfumato.guidance.energies import low_pass
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.schedules import Step, add_noise
from sfumato.registry import Option, method
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.loop import OnStep, sample
from sfumato.sampling.shares import window_notes
from sfumato.watch import Watch


@method(
    "ilvr",
    title="ILVR",
    paper="Choi et al., 2021, https://arxiv.org/abs/2108.02938",
    summary="Draws the target prompt anew while the coarse colours and shapes are held to the picture's.",
    when="Only the coarse layout shall stay and all detail may change; or a baseline for other methods.",
    cost="2 evaluations a step (1 at guidance 1).",
    inversions=(),
)
def ilvr(
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
    cells: Annotated[
        int, Option("how finely the picture is held, in cells along its shorter side; more keeps more of it", low=1)
    ] = 4,
    hold: Annotated[float, Option("share of the steps, from the start, that hold the picture", low=0, high=1)] = 0.8,
    eta: Annotated[float, Option("fresh noise at each step: 1 as in the paper, 0 none", low=0, high=1)] = 1.0,
) -> LatentEdit:
    """Draws from `source.noise` under the picture's coarse part, latent to latent.

    Costs 2 targets network evaluations a step, half of it without guidance.

    Args:
        model: Any model.
        source: The picture's latents, first noise and grid: `Inversion("picture", noise, timesteps, trajectory=clean)`;
            or drawn noise, whose picture is sampled first, for as many evaluations as that takes.
        source_prompt: Not used, but for drawn noise: there it says what the picture shows.
        target_prompts: One or more prompts, done in one batch.
        negative_prompt: What guidance leads away from.
        guidance_scale: Of the edited branches.
        source_guidance_scale: Likewise; None: as the edited branches.
        generator: Draws the noise of the steps and of the reference.
        on_step: Called after every step with the edited branches, after the reference.
        watch: Progress, previews, cancellation.
        noise: All draws in place of the generator's: the noise of each step, then that of the reference at each step,
            (2, steps, image, channels, height, width).
        cells, hold, eta: see their `Option`.

    Returns:
        Branches "source" (the picture's own latents) and "target" ("target-1", ... when several).

    Raises:
        UsageError: An option out of range, or noise of another shape.
    """
    scale = guidance_scale if source_guidance_scale is None else source_guidance_scale
    source = picture_of(model, source, source_prompt, negative_prompt, scale, watch=watch)
    clean, steps = source.clean.to(model.device), len(source.timesteps)
    if cells < 1 or not 0.0 <= hold <= 1.0:
        raise UsageError(f"cells must be at least 1 and hold in [0, 1], got {cells} and {hold:g}")
    if noise is not None and noise.shape != (2, steps, *clean.shape):
        raise UsageError(f"noise must be {(2, steps, *clean.shape)}, got {tuple(noise.shape)}")
    branches = target_branches(model, target_prompts, negative_prompt, guidance_scale)
    replay = None if noise is None else Inversion("given", source.noise, source.timesteps, noise_maps=noise[0])
    held = int(hold * steps)

    def refer(latents: Tensor, step: Step) -> Tensor:
        if step.index >= held:
            return latents
        reference = clean.to(latents)
        if step.t_prev >= 0:
            draw = draw_noise(clean.shape, generator, latents) if noise is None else noise[1, step.index]
            reference = add_noise(reference, draw.to(latents), step.alpha_bar_prev)
        difference = reference - latents
        coarse: Tensor = low_pass(difference.flatten(0, 1), cells).unflatten(0, difference.shape[:2])
        return latents + coarse

    edited = sample(
        model,
        source.noise,
        branches,
        timesteps=source.timesteps,
        eta=eta,
        generator=generator,
        replay=replay,
        on_step=[refer, *on_step],
        watch=watch,
    )
    return with_source(clean, edited, branches, notes=window_notes(steps, hold=hold))
