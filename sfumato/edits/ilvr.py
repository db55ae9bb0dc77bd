r"""ILVR (Choi et al., 2021), https://arxiv.org/abs/2108.02938: sampling with the coarse part of an image held.

The model samples from noise, and after every step the low-pass part of the latents is set to that of the image at the
same noise level:

.. math:: x_{prev} = x' + \phi(y_{prev}) - \phi(x'), \qquad y_{prev} \sim q(y_{prev} \mid y).

Differs from the paper: the model is guided by a target prompt, where the paper has a model of one domain; the filter
acts on latents where the model has them; its width is given in cells along the image's shorter side, so that it means
the same at every size (the paper's factor N on 256 pixels is 256 / N cells; our default, 4, is its coarsest). After the
last step the reference is the image itself, without noise.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.guidance.energies import low_pass
from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Step, add_noise
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.shares import window_notes


@edit_method(
    "ilvr",
    summary="Samples the target prompt from noise while coarse colours and shapes are held to the image's.",
    when="Only the coarse layout should stay and all detail may change; or as a baseline for other methods.",
    cost="2 evaluations a step (1 at guidance 1).",
    inversions=(),
)
def ilvr(
    task: EditTask,
    *,
    noise: Tensor | None = None,
    cells: Annotated[
        int, Option("cells along the shorter side of the coarse image; more cells keep finer parts of it", low=1)
    ] = 4,
    hold: Annotated[
        float,
        Option("share of the steps, from the first, that hold the coarse image; higher keeps more", low=0, high=1),
    ] = 0.8,
    eta: Annotated[
        float, Option("share of fresh noise at each step: 1 is the paper's sampler, 0 is deterministic", low=0, high=1)
    ] = 1.0,
) -> LatentEdit:
    """Samples from the source's noise under the coarse part of the images.

    Costs 2 targets network evaluations a step, half of it without guidance.

    Args:
        task: From latents of the images and a first noise, or from drawn noise, which is sampled first.
        noise: All draws in place of the generator's: the noise of each step, then that of the reference at each step,
            (2, steps, image, channels, height, width).
        cells, hold, eta: See their `Option`.

    Raises:
        UsageError: An option out of range, or noise of another shape.
    """
    steps = task.num_steps
    shape, held = (2, steps, *task.source.noise.shape), int(hold * steps)
    if cells < 1 or not 0.0 <= hold <= 1.0:
        raise UsageError(f"cells must be at least 1 and hold in [0, 1], got {cells} and {hold:g}")
    if noise is not None and noise.shape != shape:
        raise UsageError(f"noise must be {shape}, got {tuple(noise.shape)}")
    source = task.with_latents
    clean = source.clean.to(task.model.device)
    replay = None if noise is None else Inversion("given", source.noise, source.timesteps, noise_maps=noise[0])

    def refer(latents: Tensor, step: Step) -> Tensor:
        if step.index >= held:
            return latents
        reference = clean.to(latents)
        if step.time_prev >= 0:
            draw = draw_noise(clean.shape, task.generator, latents) if noise is None else noise[1, step.index]
            reference = add_noise(reference, draw.to(latents), step.level_prev)
        difference = reference - latents
        coarse: Tensor = low_pass(difference.flatten(0, 1), cells).unflatten(0, difference.shape[:2])
        return latents + coarse

    edited = task.sample(source.noise, task.targets, replay=replay, eta=eta, on_step=[refer])
    return task.edited(edited, source=clean, notes=window_notes(steps, hold=hold))
