r"""Plug-and-play guidance: Langevin sampling of the latent code of a stochastic sampler under an energy.

Source: Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559.

A stochastic sampler is a deterministic map from a Gaussian code z = (x_T, z_T, ..., z_1) to an image x(z). So any
model can be guided by anything that judges images, without training either for the other:

.. math:: z \leftarrow z - \frac{h}{2}\,\nabla E(z) + \sqrt{h}\,\xi, \qquad
          E(z) = \frac{w_0}{2}\,\|z\|^2 + \sum_k w_k\,E_k(x(z)).

Differs from the authors' code: any number of images at once, each a chain of its own; the last code, too, is judged by
`metric` (theirs stops judging before the last update).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sfumato.errors import UsageError
from sfumato.guidance.energies import Energy, evaluated, total
from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.guidance import guided_output
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import OnStep, sample
from sfumato.watch import Watch

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LangevinResult:
    """Where the chains ended.

    Attributes:
        code: The last code, or with a metric the best one seen, (noises + 1, image, channels, height, width).
        images: x(z) of that code, as the decoder gives it.
        energies: Prior energy and each energy, unweighted, before every step and at the end,
            (num_langevin_steps + 1, 1 + energies, image).
        metric: The metric of `images`, (image,), or None.
    """

    code: Tensor
    images: Tensor
    energies: Tensor
    metric: Tensor | None = None


def langevin(
    code: Tensor,
    decode: Decode,
    energies: Sequence[tuple[float, Energy]],
    *,
    num_langevin_steps: int = 200,
    step_size: float = 0.05,
    prior_weight: float = 1.0,
    metric: Energy | Literal["energies"] | None = None,
    noise: Tensor | None = None,
    generator: Generators = None,
    on_step: Callable[[Tensor, int], Any] | None = None,
    watch: Watch | None = None,
) -> LangevinResult:
    """Samples codes whose images have low energy.

    Costs one decoding with gradient a Langevin step (a backward pass takes about two forward passes), and one without.

    Args:
        code: Initial codes, (noises + 1, image, channels, height, width): x_T, then the noise of each sampler step.
            Standard normal draws for new images; `code_of` an inversion to stay near an image.
        decode: x(z), differentiable: see `code_decoder`.
        energies: (weight, energy) pairs; weights of the paper: 100 to 1000 for text agreement, 5 for a classifier.
        num_langevin_steps: At least 0.
        step_size: h above 0; 0.05 in the paper.
        prior_weight: w_0, at least 0; 1 in the paper: at 0 nothing holds the code where the model knows its way.
        metric: Judges each image, lowest is best; "energies": their weighted sum, which costs nothing more; None: the
            last code counts.
        noise: xi of every step, (num_langevin_steps, *code.shape); None: drawn.
        generator: Draws it, one draw a step; one for each image.
        on_step: Called with the code after each step and the step's index.
        watch: Progress and cancellation.

    Raises:
        UsageError: A number out of range, noise of another shape, an energy that does not give one number an image, or
            one that the code does not move.
    """
    _check(code, num_langevin_steps, step_size, prior_weight, energies, noise)
    code, history = code.detach(), []
    best: tuple[Tensor, Tensor, Tensor] | None = None

    def judged(metric: Energy | Literal["energies"], values: Tensor, images: Tensor) -> Tensor:
        if isinstance(metric, str):
            weighted = [weight * value for (weight, _), value in zip(energies, values[1:], strict=True)]
            return torch.stack(weighted).sum(dim=0)
        return evaluated(metric, images)

    for index in (watch or Watch()).during("guiding").over(range(num_langevin_steps)):
        gradient, values, images = energy_gradient(code, decode, energies)
        history.append(values)
        if metric is not None:
            best = _better(best, judged(metric, values, images), code, images)
        drift = prior_weight * code + gradient
        draw = draw_noise(code.shape, generator, code) if noise is None else noise[index].to(code)
        code = code - step_size / 2 * drift + sqrt(step_size) * draw
        if on_step is not None:
            on_step(code, index)

    with torch.no_grad():
        images = decode(code)
        values = _values(code, images, energies)
        history.append(values)
        if metric is None:
            return LangevinResult(code, images, torch.stack(history))
        metric_value, code, images = _better(best, judged(metric, values, images), code, images)
    return LangevinResult(code, images, torch.stack(history), metric_value)


def energy_gradient(
    code: Tensor, decode: Decode, energies: Sequence[tuple[float, Energy]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the weighted energies without the prior, shaped like the code; all energies; the images.

    Args:
        code: (noises + 1, image, channels, height, width).
        decode: x(z), differentiable.
        energies: (weight, energy) pairs.

    Returns:
        The gradient; prior energy and each energy, unweighted, (1 + energies, image); x(z).

    Raises:
        UsageError: An energy has another shape, or none depends on the code.
    """
    with torch.enable_grad():
        free = code.detach().requires_grad_(True)
        images = decode(free)
        values = [evaluated(energy, images) for _, energy in energies]
        if not energies:
            return torch.zeros_like(code), _values(code, images.detach(), ()), images.detach()
        objective = total([(weight, value) for (weight, _), value in zip(energies, values, strict=True)])
        if not objective.requires_grad:
            raise UsageError("the energies do not depend on the code: decoder and energies must be differentiable")
        (gradient,) = torch.autograd.grad(objective, free)
    prior = 0.5 * code.square().sum(dim=(0, 2, 3, 4))
    return gradient, torch.stack([prior, *(value.detach().to(prior) for value in values)]), images.detach()


def code_decoder(
    model: Model,
    condition: Condition,
    *,
    eta: float = 0.1,
    guidance_scale: float = 1.0,
    negative: Condition | None = None,
    num_inference_steps: int = 10,
    timesteps: Sequence[float] | None = None,
    start_index: int = 0,
    pixels: bool = True,
    checkpointed: bool = False,
    on_step: Sequence[OnStep] = (),
) -> Decode:
    """x(z): the sampler as a differentiable function of its code.

    Costs one network evaluation a step and image, two with guidance.

    Args:
        model: Any model.
        condition: What is drawn; one row, or one an image.
        eta: Stochasticity, in (0, 1]; the paper: 0.1.
        guidance_scale, negative: Classifier-free guidance.
        num_inference_steps, timesteps: The grid. All activations of all steps are kept for the gradient, so few.
        start_index: First step to execute; codes then have steps - start_index + 1 entries.
        pixels: Decode to pixels, (image, 3, H, W); otherwise to latents.
        checkpointed: Keep latents only and compute activations again in the backward pass: memory of one step, and
            one more evaluation a step.
        on_step: Called after every step of the sampler, see `sample`; differentiable.

    Raises:
        UsageError: When called with a code of another length than the grid's.
    """
    if not 0.0 < eta <= 1.0:
        raise UsageError(f"eta must be in (0, 1], got {eta:g}: without noise the code is x_T alone")

    def kept(model: Model, latents: Tensor, step: Any, *others: Any) -> Tensor:
        output: Tensor = checkpoint(guided_output, model, latents, step.time, *others, use_reentrant=False)
        return output

    def decode(code: Tensor) -> Tensor:
        size = (code.shape[-2], code.shape[-1])
        steps = model.schedule.steps(num_inference_steps, timesteps=timesteps, latent_size=size)
        if len(code) != len(steps) - start_index + 1:
            raise UsageError(
                f"a code for {len(steps) - start_index} steps has {len(steps) - start_index + 1} entries (x_T and one"
                f" noise a step), got {len(code)}"
            )
        skipped = code.new_zeros(start_index, *code.shape[1:])
        grid = tuple(step.time for step in steps)
        replay = Inversion("code", code[0], grid, noise_maps=torch.cat([skipped, code[1:]]), eta=eta)
        latents = sample(
            model,
            code[0],
            {"sample": Branch(condition, negative, guidance_scale)},
            timesteps=grid,
            start_index=start_index,
            eta=eta,
            replay=replay,
            guide=kept if checkpointed else None,
            on_step=on_step,
            differentiable=torch.is_grad_enabled(),
        )[0]
        return model.decode_latents(latents) if pixels else latents

    return decode


def code_of(inversion: Inversion) -> Tensor:
    """The code that a noise-map inversion found, (noises + 1, image, channels, height, width).

    Raises:
        UsageError: The inversion keeps no noise maps.
    """
    if inversion.noise_maps is None:
        raise UsageError(f"inversion {inversion.method!r} keeps no noise maps; use 'dpm-encoder' or 'edit-friendly'")
    return torch.cat([inversion.noise[None], inversion.noise_maps[inversion.start_index :]])


def _values(code: Tensor, images: Tensor, energies: Sequence[tuple[float, Energy]]) -> Tensor:
    prior = 0.5 * code.square().sum(dim=(0, 2, 3, 4))
    return torch.stack([prior, *(evaluated(energy, images).to(prior) for _, energy in energies)])


def _better(
    best: tuple[Tensor, Tensor, Tensor] | None, value: Tensor, code: Tensor, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Metric, code and images of the lower metric, image by image."""
    if best is None:
        return value, code, images
    lower = value < best[0]
    return (
        torch.where(lower, value, best[0]),
        torch.where(lower.view(1, -1, 1, 1, 1), code, best[1]),
        torch.where(lower.view(-1, 1, 1, 1), images, best[2]),
    )


def _check(
    code: Tensor,
    num_langevin_steps: int,
    step_size: float,
    prior_weight: float,
    energies: Sequence[tuple[float, Energy]],
    noise: Tensor | None,
) -> None:
    if code.ndim != 5:
        raise UsageError(f"code must be (noises + 1, image, channels, height, width), got {tuple(code.shape)}")
    if num_langevin_steps < 0:
        raise UsageError(f"num_langevin_steps must be at least 0, got {num_langevin_steps}")
    if not (isfinite(step_size) and step_size > 0.0):
        raise UsageError(f"step_size must be above 0, got {step_size:g}")
    if not (isfinite(prior_weight) and prior_weight >= 0.0):
        raise UsageError(f"prior_weight must be at least 0, got {prior_weight:g}")
    if not all(isfinite(weight) for weight, _ in energies):
        raise UsageError(f"weights of energies must be finite, got {[weight for weight, _ in energies]}")
    if noise is not None and noise.shape != (num_langevin_steps, *code.shape):
        raise UsageError(f"noise must be {(num_langevin_steps, *code.shape)}, got {tuple(noise.shape)}")
