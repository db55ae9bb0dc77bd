"""DiffEdit (Couairon et al., 2022), https://arxiv.org/abs/2210.11427: finds a mask, and edits inside it.

The image has to change where the noise predictions under the source prompt and under the target prompt differ. This
contrast, averaged over several noise draws, gives a mask (step 1). The image is inverted by DDIM up to a share of the
schedule (step 2), and denoised from there under the target prompt, while everything outside the mask is set to the
inverted latents after each step (step 3).

Differs from the paper: the inversion may use the source prompt (the paper inverts without text); "extreme values" are
those above three times the mean contrast; outside the mask the result has exactly the image's latents. At the 16x16
latents of the embedded model a mask at the paper's threshold is too small (docs/benchmarks.md): that model has its own
default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from sfumato.edits.known_source import unused_embeddings, with_source
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step, add_noise
from sfumato.options import Option
from sfumato.sampling.draws import alike, draw_noise
from sfumato.sampling.shares import first_step, strength_notes
from sfumato.watch import Watch

EXTREME = 3.0
"""Contrast above this many times its mean is cut off, so that single positions do not set the scale."""


@edit_method(
    "diffedit",
    summary="Finds where the two prompts predict different noise, and edits the image only there.",
    when="One thing is replaced by another and everything around it must stay as it is.",
    cost="2 evaluations a step that is run (1 at guidance 1), 2 a draw for the mask, plus the inversion's.",
    inversions=("direct", "ddim", "fixed-point", "regularised-ddim", "bdia", "null-text", "negative-prompt"),
    refuses={
        "edit-friendly": "DiffEdit samples deterministically, and its latents hold fresh noise at every step",
        "dpm-encoder": "DiffEdit samples deterministically, and its latents hold fresh noise at every step",
    },
    takes_mask=True,
)
def diffedit(
    task: EditTask,
    *,
    strength: Annotated[
        float,
        Option("share of the steps that are run; lower keeps more of the image, 0 returns it unchanged", low=0, high=1),
    ] = 0.8,
    contrast_threshold: Annotated[
        float,
        Option(
            "contrast that counts as inside the mask, as share of the largest; lower makes a larger mask", low=0, high=1
        ),
    ] = 0.5,
    contrast_strength: Annotated[
        float, Option("noise level at which the mask is found, as share of the steps; 1 is pure noise", low=0, high=1)
    ] = 0.5,
    contrast_draws: Annotated[
        int, Option("noise draws that the mask is averaged over; more are steadier and slower", low=1)
    ] = 10,
    noise: Tensor | None = None,
) -> LatentEdit:
    """Finds where the predictions under the prompts differ, and denoises under the target prompts only there.

    Costs, for each image, contrast_draws (1 + targets) network evaluations for the mask, and 2 targets for each of the
    int(strength steps) steps that are run, half of that at guidance 1; for a generated source those of generating it.

    Args:
        task: From an inversion that keeps its trajectory, or drawn noise. Its mask is used where there is one;
            otherwise each edit has its own, whose noises the generator draws, a single one the same for all images.
            Hooks come after the mask, and see the source's known latents as branch 0.
        strength, contrast_threshold, contrast_strength, contrast_draws: See their `Option`. The paper: strength 0.5 to
            0.8, and 0.5 for both contrasts.
        noise: The mask's draws instead of the generator's, the same for all images, (draws, channels, height, width).

    Returns:
        Branch "source" is the image's own latents; with the masks.

    Raises:
        UsageError: An option out of range; a mask or noise of another shape.
        InversionError: The inversion does not hold the timesteps that are run.
    """
    images, *size = task.source.noise.shape
    shape = (len(task.target_prompts), images, *task.latent_size)
    start = first_step(strength, task.num_steps)
    if task.mask is not None and tuple(task.mask.shape) not in (shape, (1, 1, *task.latent_size)):
        raise UsageError(f"mask must be (edit, image, height, width) = {shape}, got {tuple(task.mask.shape)}")
    if noise is not None and list(noise.shape[1:]) != size:
        raise UsageError(f"noise must be (draws, {', '.join(map(str, size))}), got {tuple(noise.shape)}")
    source = task.with_latents
    clean = source.clean.to(task.model.device)

    # Step 1: the mask
    if task.mask is not None:
        inside = (task.mask.to(clean.device) > 0.5).expand(shape)
    else:
        if noise is None:
            noise = draw_noise(alike((contrast_draws, *clean.shape), task.generator), task.generator, clean)
        at = source.timesteps[min(first_step(contrast_strength, task.num_steps), task.num_steps - 1)]
        prompts = task.condition[slice(0, 1 + len(task.target_prompts))]
        inside = contrast(task.model, clean, prompts, noise, at, watch=task.watch) > contrast_threshold
    notes = unused_embeddings(source, "DiffEdit")
    if start == task.num_steps:
        return task.edited(clean, mask=inside, notes=notes)

    # Steps 2 and 3: from the encoded latents, the rest set back to them after every step
    def blend(latents: Tensor, step: Step) -> Tensor:
        known = source.latents_at(step.index + 1).to(latents)
        return torch.where(inside[:, :, None], latents, known[None])

    hooks = [with_source(source, hook) for hook in task.on_step]
    latents = source.latents_at(start)
    edited = replace(task, on_step=hooks).sample(latents, task.targets, start_index=start, on_step=[blend])
    notes += strength_notes(strength, task.num_steps)
    return task.edited(edited, source=clean, mask=inside, notes=notes)


@torch.no_grad()
def contrast(
    model: Model, clean: Tensor, prompts: Condition, noise: Tensor, time: float, *, watch: Watch | None = None
) -> Tensor:
    """How far the predictions under each target prompt are from those under the source prompt, in [0, 1].

    Mean over draws and channels of the absolute difference, extreme values cut off, scaled to [0, 1] in each image;
    0 everywhere where the predictions agree.

    Reference: Couairon et al., 2022, section 3.2, step 1.

    Args:
        model: Any model.
        clean: (image, channels, height, width).
        prompts: The source's row, then one a target.
        noise: (draws, channels, height, width), or with an axis of images before the channels.
        time: Time of the level that the image is brought to.
        watch: Progress and cancellation.

    Returns:
        (edit, image, height, width).
    """
    images, branches = len(clean), len(prompts)
    total = clean.new_zeros(branches - 1, *clean.shape)
    for draw in (watch or Watch()).during("finding the mask").over(list(noise)):
        latents = add_noise(clean, draw.to(clean), model.schedule.level(time)).repeat(branches, 1, 1, 1)
        output = model.predict_noise(latents, time, prompts.repeat(images)).unflatten(0, (branches, images))
        total = total + (output[1:] - output[:1]).abs()
    heat = total.mean(dim=2) / len(noise)
    heat = heat.minimum(EXTREME * heat.mean(dim=(-2, -1), keepdim=True))
    low, high = heat.amin(dim=(-2, -1), keepdim=True), heat.amax(dim=(-2, -1), keepdim=True)
    return (heat - low) / (high - low).clamp(min=1e-12)
