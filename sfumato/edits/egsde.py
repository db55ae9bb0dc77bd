r"""EGSDE (Zhao et al., 2022), https://arxiv.org/abs/2207.06635: SDEdit guided by an energy.

As in SDEdit noise is added and removed again, but the score is changed by the gradient of an energy that compares each
step with the image at the same noise level:

.. math:: s'(y, t) = s(y, t) - \nabla_y E(y, x_t), \qquad E = \lambda_i E_i + \lambda_s E_s,
          \qquad x_t \sim q(x_t \mid x_0).

The faithfulness expert E_i is the squared distance after low-pass filtering, of what both domains share. The realism
expert E_s is low where the image no longer has the features of the source's domain.

Differs from the paper, whose models work on pixels and know one domain each:

- filter and experts act on latents where the model has them, so the paper's weights (2 and 500 on 256 x 256 pixels) do
  not carry over, and the default grid is coarser (4 cells a side, theirs has 8);
- the paper's realism expert needs a classifier of noisy images, trained for the two domains. Here the guided target
  prompt takes its role. The expert "domain" is the paper's with a classifier of clean images, which sees the model's
  estimate of the clean image. Another can be given as an object: `energies.FeatureSimilarity` over the features of a
  classifier of noisy latents, `energies.NoisyClassLabel` with the classifier itself;
- stochastic DDIM at eta 1 in place of Euler-Maruyama; on the same grid the gradient has the same factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.sdedit import renoised
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.guidance.energies import Expert, LowPassDistance, checked
from sfumato.guidance.energies_by_name import ExpertSpec, Rows, check_energy, experts_of, names
from sfumato.judges.encoders import ENCODER_HELP
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Level, Prediction, Schedule, Step, add_noise, join
from sfumato.options import Option
from sfumato.sampling.draws import Generators, draw_noise, for_branches, streams
from sfumato.sampling.guidance import guided_output
from sfumato.sampling.layout import Layout
from sfumato.sampling.loop import Guide
from sfumato.sampling.shares import first_step, strength_notes


@edit_method(
    "egsde",
    summary="Adds noise and removes it under the target prompt, while an energy holds the coarse image.",
    when="SDEdit keeps too little: more noise can be used, since layout and colours are held.",
    cost="2 evaluations a step that is run (1 at guidance 1).",
    inversions=(),
    guidance_interval=False,
)
def egsde(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    reference_noise: Tensor | None = None,
    strength: Annotated[
        float,
        Option(
            "noise to add, as share of the steps; lower keeps more of the image, 1 starts from noise", low=0, high=1
        ),
    ] = 0.8,
    faithfulness: Annotated[
        float,
        Option("weight of the energy that holds the coarse image; higher keeps more, 0 is SDEdit", low=0, high=100),
    ] = 0.3,
    cells: Annotated[
        int, Option("cells along the shorter side of the coarse image; more cells keep finer parts of it", low=1)
    ] = 4,
    eta: Annotated[
        float, Option("share of fresh noise at each step: 1 is the paper's sampler, 0 is deterministic", low=0, high=1)
    ] = 1.0,
    experts: Annotated[
        ExpertSpec | None,
        Option(
            f"further energies that guide every step, a name or a table of names and weights: {names('expert')}",
            check=check_energy("expert"),
        ),
    ] = None,
    encoder: Annotated[str | None, Option(ENCODER_HELP)] = None,
) -> LatentEdit:
    """Adds noise to the images, and removes it under the target prompts and the energy.

    Costs 2 targets network evaluations a step that is run (int(strength steps) of all), half of it without guidance,
    and what `experts` cost: those of the model's estimate take 1 evaluation with a backward pass a step each.

    Args:
        task: From latents of the images and a first noise, or from drawn noise, which is sampled first.
        noise: All draws of the edited branches in place of the generator's, see `sdedit`.
        reference_noise: Those that bring the images to each step's level, (run steps, image, channels, height, width).
        experts: Beside the faithfulness expert: names, or (weight, expert) pairs.
        strength, faithfulness, cells, eta, encoder: See their `Option`.

    Raises:
        UsageError: An option out of range, noise of another shape, or an expert that does not give one number a row.
        SamplingError: The energy is too strong for the steps.
    """
    start, targets, source = first_step(strength, task.num_steps), len(task.target_prompts), task.with_latents
    clean = source.clean.to(task.model.device)
    edited = clean.expand(targets, *clean.shape)
    terms: list[tuple[float, Expert]] = [(faithfulness, LowPassDistance(cells))] if faithfulness else []
    if experts:
        texts = [text for text in task.target_prompts for _ in clean]
        generator = for_branches(streams(task.generator, len(clean)), targets)
        rows = Rows(task.model, edited.flatten(0, 1), task.source_prompt, texts, encoder, generator=generator)
        terms += experts_of(experts, rows)
    guide = energy_guide(clean, terms, start, generator=task.generator, noise=reference_noise) if terms else None
    shape = (task.num_steps - start, *clean.shape)
    if reference_noise is not None and reference_noise.shape != shape:
        raise UsageError(f"reference_noise must be {shape}, got {tuple(reference_noise.shape)}")
    if start < task.num_steps:
        first = source.noise if task.source is source else None
        edited = renoised(task, edited, start_index=start, eta=eta, first_noise=first, noise=noise, guide=guide)
    return task.edited(edited, source=clean, notes=strength_notes(strength, task.num_steps))


def energy_guide(
    clean: Tensor,
    experts: Sequence[tuple[float, Expert]],
    start_index: int = 0,
    *,
    generator: Generators = None,
    noise: Tensor | None = None,
) -> Guide:
    """A `guide` for `sample`: classifier-free guidance, then the noise shifted by grad E times the noise level.

    Args:
        clean: Latents of the image, (image, channels, height, width).
        experts: (weight, expert) pairs.
        start_index: First step of the run.
        generator: Draws the noise that brings the image to each step's level, one draw a step.
        noise: These draws instead, (run steps, image, channels, height, width).
    """

    def guide(
        model: Model, latents: Tensor, step: Step, condition: Condition, scales: Tensor, layout: Layout
    ) -> Tensor:
        output = guided_output(model, latents, step.time, condition, scales, layout)
        draw = draw_noise(clean.shape, generator, latents) if noise is None else noise[step.index - start_index]
        reference = add_noise(clean.to(latents), draw.to(latents), step.level).expand_as(latents)
        gradient = energy_gradient(latents.flatten(0, 1), reference.flatten(0, 1), step, experts)
        shift = step.level.noise * gradient.view_as(latents)
        return output + output_shift(model.schedule, shift, step.level)

    return guide


def energy_gradient(latents: Tensor, reference: Tensor, step: Step, experts: Sequence[tuple[float, Expert]]) -> Tensor:
    """Gradient of the weighted experts by the latents, (rows, channels, height, width).

    Raises:
        UsageError: An expert does not give one number a row.
    """
    with torch.enable_grad():
        free = latents.detach().requires_grad_(True)
        energies = [weight * checked(expert(free, reference, step), len(free), expert) for weight, expert in experts]
        (gradient,) = torch.autograd.grad(torch.stack(energies).sum(), free)
    return gradient


def output_shift(schedule: Schedule, noise_shift: Tensor, level: Level) -> Tensor:
    """What to add to a network output so that the noise that it implies changes by `noise_shift`."""
    x0_shift = -level.noise / level.signal * noise_shift  # the noisy latents stay
    return join(Prediction(x0_shift, noise_shift), level, schedule.target)
