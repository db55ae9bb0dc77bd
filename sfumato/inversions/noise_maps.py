r"""Noise maps: the draws of a stochastic sampler that give a picture back exactly (DPM-Encoder, edit-friendly DDPM).

A stochastic sampler carries the code z = (x_T, z_T, ..., z_1) to a picture. Any latents x_T, ..., x_1, x_0 fix such a
code: each step's map is solved from its two ends,

.. math:: z_t = (x_{prev} - \mu(x_t)) / \sigma_t,

and sampling with these maps ends at x_0. The two methods differ in how the latents between are drawn and in nothing
else:

- "posterior" (DPM-Encoder; Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559): a Markov
  chain, x_prev ~ q(x_prev | x_t, x_0). The maps are close to standard normal where the network predicts well.
- "independent" (Huberman-Spiegelglas et al., 2023, https://arxiv.org/abs/2304.06140, Alg. 1): every level by
  itself, x_t ~ q(x_t | x_0). The maps are larger and hold more of the picture, so that it can be edited further.

Differs from the authors' code: any grid, size and batch; latents and maps stay in float32 for half-precision networks;
after each step the latents are what the step gives (as edit-friendly's), so that rounding does not add up. Two released
quirks of edit-friendly are options of its inversion, off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step, add_noise
from sfumato.registry import Option, inversion
from sfumato.sampling.ddim import ddim_std, ddim_step
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Layout
from sfumato.sampling.shares import first_step
from sfumato.watch import Watch

Draws = Literal["posterior", "independent"]


@torch.no_grad()
def noise_map_inversion(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    draws: Draws,
    eta: float,
    negative: Condition | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    timesteps: Sequence[int] | None = None,
    start_index: int = 0,
    noise: Tensor | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
) -> Inversion:
    """Encodes clean latents as noise maps; `sample(replay=..., eta=...)` with the same prompt and guidance gives them
    back at the rounding level of the model's precision.

    Costs one network evaluation a step and image, two with guidance (one again where prompt and negative are the same).

    Where the schedule ends at level 1 (pixel-space models) the last step has no noise: its map is zero, and the picture
    comes back as well as the network predicts it from the least noisy latents.

    Args:
        model: Any model.
        latents: Clean latents x_0, (image, channels, height, width).
        condition: The source prompt; one row, or one an image.
        draws: "posterior" (DPM-Encoder) or "independent" (edit-friendly).
        eta: Stochasticity of the sampler, in (0, 1].
        negative: What guidance leads away from; None: the empty prompt.
        guidance_scale: Of the source branch in the replay; the maps correct for it.
        num_inference_steps: Steps of the grid that sampling will use.
        timesteps: An explicit grid instead, noisiest first.
        start_index: First step to encode, in [0, steps): sampling may start there or later.
        noise: The draws, one for each level from `start_index` on, noisiest first,
            (steps - start_index, image, channels, height, width); None: drawn.
        generator: Draws them otherwise, all in one call in that order.
        watch: Progress and cancellation.

    Returns:
        Noise at the first encoded level; trajectory of the encoded levels, clean first; noise maps of all steps, zero
        before `start_index`.

    Raises:
        UsageError: eta is not in (0, 1], start_index leaves the grid, or the noise has another shape.
    """
    steps = model.schedule.steps(num_inference_steps, timesteps=timesteps)
    _check(eta, start_index, len(steps))
    clean = latents.to(model.device)
    clean = clean if clean.dtype == torch.float64 else clean.float()
    todo = steps[start_index:]
    predict = _Prediction(model, condition, negative, guidance_scale, clean)
    levels = _draw_levels(clean, todo, draws, eta, _draws(noise, generator, clean, len(todo)))

    current, maps, trajectory = levels[0], [torch.zeros_like(clean)] * start_index, [levels[0]]
    following = [*levels[1:], clean]
    for step, target in (watch or Watch()).during("inverting").over(list(zip(todo, following, strict=True))):
        noise_pred, x0_pred = model.schedule.noise_and_x0(predict(current, step.t), current, step.alpha_bar)
        levels_of_step = step.alpha_bar, step.alpha_bar_prev
        nothing = torch.zeros_like(current)
        mean = ddim_step(current, noise_pred, *levels_of_step, eta=eta, noise=nothing, x0_pred=x0_pred)
        std = ddim_std(*levels_of_step, eta)
        maps.append((target - mean) / std if std > 0.0 else nothing)
        # what the sampler will compute from this map: rounding must not add up over the steps
        current = mean + std * maps[-1] if std > 0.0 else target
        trajectory.append(current)

    return Inversion(
        method="dpm-encoder" if draws == "posterior" else "edit-friendly",
        noise=trajectory[0],
        timesteps=tuple(step.t for step in steps),
        trajectory=torch.stack([clean, *trajectory[-2::-1]]),
        noise_maps=torch.stack(maps),
        eta=eta,
        guidance_scale=guidance_scale,
        model_revision=model.revision,
        start_index=start_index,
    )


@inversion(
    "dpm-encoder",
    title="DPM-Encoder",
    paper="Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559",
    summary="Draws a noisy version of the picture at every step, each from the one before, and keeps the noise maps.",
    when="The picture must come back exactly at once: nothing is optimised. For CycleDiffusion and translation.",
    cost="1 evaluation a step, 2 with source guidance.",
    source_guidance_scale=1.0,
)
def dpm_encoder(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    timesteps: Sequence[int] | None = None,
    noise: Tensor | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
    eta: Annotated[
        float, Option("how much fresh noise each step holds, above 0; small: the edit stays close", low=0, high=1)
    ] = 0.1,
    strength: Annotated[
        float, Option("share of the steps to encode; an edit may use this much or less", low=0, high=1)
    ] = 1.0,
) -> Inversion:
    """DPM-Encoder: `noise_map_inversion` with draws from the posterior; see there.

    Args:
        model, latents, condition, negative, guidance_scale, num_inference_steps, timesteps, noise, generator, watch:
            See `noise_map_inversion`.
        eta, strength: see their `Option`.
    """
    steps = model.schedule.steps(num_inference_steps, timesteps=timesteps)
    return noise_map_inversion(
        model, latents, condition, draws="posterior", eta=eta, negative=negative, guidance_scale=guidance_scale,
        timesteps=[step.t for step in steps], start_index=first_step(strength, len(steps), at_least=1), noise=noise,
        generator=generator, watch=watch,
    )  # fmt: skip


@inversion(
    "edit-friendly",
    title="Edit-friendly DDPM inversion",
    paper="Huberman-Spiegelglas et al., 2023, https://arxiv.org/abs/2304.06140",
    summary="Draws every noise level from the picture by itself and keeps the noise maps that join them.",
    when="The picture must come back exactly at once, also under guidance, and the edit should hold its structure.",
    cost="2 evaluations a step, 1 without source guidance.",
    source_guidance_scale=3.5,
)
def edit_friendly_inversion(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 3.5,
    num_inference_steps: int = 50,
    timesteps: Sequence[int] | None = None,
    noise: Tensor | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
    eta: Annotated[float, Option("how much fresh noise each step holds, above 0; 1 is DDPM", low=0, high=1)] = 1.0,
    strength: Annotated[
        float, Option("share of the steps to encode; an edit may use this much or less", low=0, high=1)
    ] = 1.0,
    released_eta: Annotated[
        bool, Option("below eta 1, match the released code, whose steps are not DDIM's at that eta")
    ] = False,
    drop_last_map: Annotated[
        bool, Option("the last step adds no noise, as in the released code; the picture then comes back only nearly")
    ] = False,
) -> Inversion:
    r"""Edit-friendly DDPM inversion: `noise_map_inversion` with independent draws; see there.

    The released code has :math:`\eta\,\mathrm{var}` in the direction term where DDIM has :math:`\eta^2\,\mathrm{var}`.
    Its step at eta is DDIM's at :math:`\sqrt\eta` with noise scaled by :math:`\sqrt\eta`, so `released_eta` encodes at
    :math:`\sqrt\eta`, which the result names as its eta; the released maps are these over :math:`\sqrt\eta`.

    Args:
        model, latents, condition, negative, guidance_scale, num_inference_steps, timesteps, noise, generator, watch:
            See `noise_map_inversion`.
        eta, strength, released_eta, drop_last_map: see their `Option`.
    """
    steps = model.schedule.steps(num_inference_steps, timesteps=timesteps)
    found = noise_map_inversion(
        model, latents, condition, draws="independent", eta=sqrt(eta) if released_eta else eta, negative=negative,
        guidance_scale=guidance_scale, timesteps=[step.t for step in steps],
        start_index=first_step(strength, len(steps), at_least=1), noise=noise, generator=generator, watch=watch,
    )  # fmt: skip
    if drop_last_map and found.noise_maps is not None:
        found.noise_maps[-1] = 0.0
    return found


class _Prediction:
    """The source branch's guided network output at one level after another."""

    def __init__(
        self, model: Model, condition: Condition, negative: Condition | None, guidance_scale: float, latents: Tensor
    ) -> None:
        images, empty = len(latents), model.encode_prompt("")
        negative = negative or empty
        tokens = max(condition.prompt_embeds.shape[1], negative.prompt_embeds.shape[1])
        rows, uncond = (given.padded(tokens, empty).expand(images) for given in (condition, negative))
        guided = guidance_scale != 1.0 and not torch.equal(uncond.prompt_embeds, rows.prompt_embeds)
        self.model = model
        halves = guidance_halves(model, guided)
        self.condition = Condition.cat([uncond, rows]) if len(halves) == 2 else rows
        self.scales = torch.tensor([guidance_scale]).to(latents)
        self.layout = Layout(halves, ("source",), images, (latents.shape[-2], latents.shape[-1]))

    def __call__(self, latents: Tensor, t: int) -> Tensor:
        return guided_output(self.model, latents[None], t, self.condition, self.scales, self.layout)[0]


def _draw_levels(clean: Tensor, steps: Sequence[Step], draws: Draws, eta: float, noise: Tensor) -> list[Tensor]:
    """Latents at the start of each step, noisiest first; no network needed."""
    if draws == "independent":
        return [add_noise(clean, draw, step.alpha_bar) for step, draw in zip(steps, noise, strict=True)]
    latents = [add_noise(clean, noise[0], steps[0].alpha_bar)]
    for step, draw in zip(steps[:-1], noise[1:], strict=True):
        implied = (latents[-1] - sqrt(step.alpha_bar) * clean) / sqrt(1.0 - step.alpha_bar)
        posterior = ddim_step(
            latents[-1], implied, step.alpha_bar, step.alpha_bar_prev, eta=eta, noise=draw, x0_pred=clean
        )
        latents.append(posterior)
    return latents


def _draws(noise: Tensor | None, generator: Generators, clean: Tensor, count: int) -> Tensor:
    if noise is None:
        return draw_noise((count, *clean.shape), generator, clean)
    if noise.shape != (count, *clean.shape):
        raise UsageError(f"noise must be {(count, *clean.shape)}, one draw a level, got {tuple(noise.shape)}")
    return noise.to(clean)


def _check(eta: float, start_index: int, num_steps: int) -> None:
    if eta == 0.0:
        raise UsageError(
            "eta=0 adds no noise, so there are no noise maps to hold the picture: use eta above 0 (0.1 keeps the edit"
            " close, 1 is DDPM), or the inversion 'ddim'"
        )
    if not 0.0 < eta <= 1.0:
        raise UsageError(f"eta must be in (0, 1], got {eta:g}")
    if not 0 <= start_index < num_steps:
        raise UsageError(f"start_index must be in [0, {num_steps - 1}], got {start_index}")
