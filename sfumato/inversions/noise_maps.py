r"""DPM-Encoder and edit-friendly DDPM inversion: noise maps, with which a stochastic sampler gives the image exactly.

A stochastic sampler maps the code z = (x_T, z_T, ..., z_1) to an image. Any latents x_T, ..., x_1, x_0 determine such a
code: each step's noise map is solved from the latents before and after it,

.. math:: z_t = (x_{prev} - \mu(x_t)) / \sigma_t,

and sampling with these maps ends at x_0. The two methods differ only in how the latents in between are drawn:

- "posterior" (DPM-Encoder; Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559): a Markov
  chain, x_prev ~ q(x_prev | x_t, x_0). The maps are close to standard normal where the network predicts well.
- "independent" (Huberman-Spiegelglas et al., 2023, https://arxiv.org/abs/2304.06140, Alg. 1): every level by
  itself, x_t ~ q(x_t | x_0). The maps are larger and hold more of the image's structure.

Differs from the authors' code: any grid, size and batch; latents and maps stay in float32 for half-precision networks;
after each step the latents are those that the step computes (as edit-friendly's code does), so that rounding does not
add up. Two quirks of edit-friendly's code are options of its inversion, off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import Step, add_noise, split
from sfumato.options import Option
from sfumato.sampling.ddim import ddim_std, ddim_step
from sfumato.sampling.draws import given_or_drawn
from sfumato.sampling.shares import first_step

NoiseCoupling = Literal["posterior", "independent"]
"""How the latents of neighbouring levels depend on each other, see above."""


@torch.no_grad()
def noise_map_inversion(
    task: InversionTask, *, coupling: NoiseCoupling, eta: float, start_index: int = 0, noise: Tensor | None = None
) -> Inversion:
    """Encodes clean latents as noise maps; `sample(replay=..., eta=...)` with the same prompt and guidance reconstructs
    them up to rounding in the model's precision.

    Costs one network evaluation a step and image, two with guidance (one again where prompt and negative are the same).

    Where the schedule ends at level 1 (pixel-space models) the last step has no noise: its map is zero, and the
    reconstruction is what the network predicts from the least noisy latents.

    Args:
        task: What to invert; its generator makes the draws, all in one call, noisiest level first.
        coupling: "posterior" (DPM-Encoder) or "independent" (edit-friendly).
        eta: Stochasticity of the sampler, in (0, 1].
        start_index: First step to encode, in [0, steps): sampling may start there or later.
        noise: The draws instead, one for each level from `start_index` on, noisiest first,
            (steps - start_index, image, channels, height, width).

    Returns:
        Noise at the first encoded level; trajectory of the encoded levels, clean first; noise maps of all steps, zero
        before `start_index`.

    Raises:
        UsageError: eta is not in (0, 1], start_index leaves the grid, or the noise has another shape.
    """
    _check(eta, start_index, len(task.steps))
    clean, steps = task.clean, task.steps[start_index:]
    draws = given_or_drawn(noise, (len(steps), *clean.shape), task.generator, clean, each="a level")
    levels = _draw_levels(clean, steps, coupling, eta, draws)
    source, nothing = task.source(), torch.zeros_like(clean)

    current, maps, trajectory = levels[0], [nothing] * start_index, [levels[0]]
    for step, target in task.over(list(zip(steps, [*levels[1:], clean], strict=True))):
        prediction, between = source.predict(current, step.time, step.level), (step.level, step.level_prev)
        mean = ddim_step(prediction, *between, eta=eta, noise=nothing)
        std = ddim_std(*between, eta)
        maps.append((target - mean) / std if std > 0.0 else nothing)
        # what the sampler will compute from this map: rounding must not add up over the steps
        current = mean + std * maps[-1] if std > 0.0 else target
        trajectory.append(current)

    return task.inversion(
        "dpm-encoder" if coupling == "posterior" else "edit-friendly",
        trajectory[0],
        trajectory=torch.stack([clean, *trajectory[-2::-1]]),
        noise_maps=torch.stack(maps),
        eta=eta,
        start_index=start_index,
    )


@inversion(
    "dpm-encoder",
    title="DPM-Encoder",
    paper="Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559",
    summary="Draws a noisy version of the image at every step, each from the one before, and keeps the noise maps.",
    when="For CycleDiffusion and translation; the reconstruction is exact, and nothing is optimised.",
    cost="1 evaluation a step, 2 with source guidance.",
    source_guidance_scale=1.0,
)
def dpm_encoder(
    task: InversionTask,
    *,
    noise: Tensor | None = None,
    eta: Annotated[
        float,
        Option("share of fresh noise at each step, above 0; lower keeps the edit closer to the image", low=0, high=1),
    ] = 0.1,
    strength: Annotated[
        float, Option("share of the steps to invert, the largest strength of later edits", low=0, high=1)
    ] = 1.0,
) -> Inversion:
    """DPM-Encoder: `noise_map_inversion` with draws from the posterior; see there, also for `noise`."""
    start_index = first_step(strength, len(task.steps), at_least=1)
    return noise_map_inversion(task, coupling="posterior", eta=eta, start_index=start_index, noise=noise)


@inversion(
    "edit-friendly",
    title="Edit-friendly DDPM inversion",
    paper="Huberman-Spiegelglas et al., 2023, https://arxiv.org/abs/2304.06140",
    summary="Draws a noisy version of the image at every step, each by itself, and keeps the noise maps.",
    when="The reconstruction must be exact, also under guidance, and the edit should keep the structure.",
    cost="2 evaluations a step, 1 without source guidance.",
    source_guidance_scale=3.5,
)
def edit_friendly_inversion(
    task: InversionTask,
    *,
    noise: Tensor | None = None,
    eta: Annotated[
        float,
        Option("share of fresh noise at each step, above 0; lower keeps the edit closer, 1 is DDPM", low=0, high=1),
    ] = 1.0,
    strength: Annotated[
        float, Option("share of the steps to invert, the largest strength of later edits", low=0, high=1)
    ] = 1.0,
    released_eta: Annotated[
        bool, Option("below eta 1, take the steps of the authors' code, which are not DDIM's at that eta")
    ] = False,
    drop_last_map: Annotated[
        bool,
        Option("add no noise at the last step, as in the authors' code; the reconstruction is then not quite exact"),
    ] = False,
) -> Inversion:
    r"""Edit-friendly DDPM inversion: `noise_map_inversion` with independent draws; see there, also for `noise`.

    The released code has :math:`\eta\,\mathrm{var}` in the direction term where DDIM has :math:`\eta^2\,\mathrm{var}`.
    Its step at eta is DDIM's at :math:`\sqrt\eta` with noise scaled by :math:`\sqrt\eta`, so `released_eta` encodes at
    :math:`\sqrt\eta`, which the result names as its eta; the released maps are these over :math:`\sqrt\eta`.
    """
    eta, start_index = sqrt(eta) if released_eta else eta, first_step(strength, len(task.steps), at_least=1)
    result = noise_map_inversion(task, coupling="independent", eta=eta, start_index=start_index, noise=noise)
    if drop_last_map and result.noise_maps is not None:
        result.noise_maps[-1] = 0.0
    return result


def _draw_levels(
    clean: Tensor, steps: Sequence[Step], coupling: NoiseCoupling, eta: float, noise: Tensor
) -> list[Tensor]:
    """Latents at the start of each step, noisiest first; no network needed."""
    if coupling == "independent":
        return [add_noise(clean, draw, step.level) for step, draw in zip(steps, noise, strict=True)]
    latents = [add_noise(clean, noise[0], steps[0].level)]
    for step, draw in zip(steps[:-1], noise[1:], strict=True):
        implied = split(clean, latents[-1], step.level, "x0")
        latents.append(ddim_step(implied, step.level, step.level_prev, eta=eta, noise=draw))
    return latents


def _check(eta: float, start_index: int, num_steps: int) -> None:
    if eta == 0.0:
        raise UsageError(
            "eta=0 adds no noise, so there are no noise maps to hold the image: use eta above 0 (0.1 keeps the edit"
            " close, 1 is DDPM), or the inversion 'ddim'"
        )
    if not 0.0 < eta <= 1.0:
        raise UsageError(f"eta must be in (0, 1], got {eta:g}")
    if not 0 <= start_index < num_steps:
        raise UsageError(f"start_index must be in [0, {num_steps - 1}], got {start_index}")
