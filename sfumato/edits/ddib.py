"""Dual diffusion implicit bridges (Su et al., 2022), https://arxiv.org/abs/2203.08382: DDIM to noise and back.

DDIM carries the image to noise under the source prompt, and from there to an image under the target prompt: two
probability-flow ODEs joined at their common end. Nothing is random, so the same run with the prompts exchanged leads
back to the image, up to the solver's error. The bridge between two models is `sfumato.edits.two_models.bridge`.

Differs from the paper: prompts take the role of its two domains; the way back is guided (the paper has no guidance,
which is scale 1); `strength` below 1 turns back before pure noise is reached, which keeps more of the image.
"""

from __future__ import annotations

from typing import Annotated

from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.options import Option
from sfumato.sampling.shares import first_step, strength_notes


@edit_method(
    "ddib",
    title="Dual diffusion implicit bridge",
    summary="Carries the image to noise under the source prompt, and back under the target prompt.",
    when="A deterministic baseline; for similar images, or to change the style of the whole image.",
    cost="3 evaluations a step with one target (4 with a guided source, 2 at guidance 1), plus the inversion's.",
    inversions=("direct", "ddim", "fixed-point", "bdia", "regularised-ddim", "negative-prompt", "null-text"),
    refuses={
        "dpm-encoder": "it belongs to a stochastic sampler, and DDIB is deterministic; use method cycle-diffusion",
        "edit-friendly": "it belongs to a stochastic sampler, and DDIB is deterministic; use method edit-friendly",
    },
)
def ddib(
    task: EditTask,
    *,
    strength: Annotated[
        float,
        Option("share of the steps that are run towards noise and back; lower keeps more of the image", low=0, high=1),
    ] = 1.0,
) -> LatentEdit:
    """Carries the images to noise under the source prompt, and back under the target prompts.

    Costs for each step that is run, int(strength steps) of all, 2 network evaluations for each guided branch and 1 for
    each other.

    Args:
        task: From an inversion with its trajectory, or drawn noise, which is sampled first where strength is below 1.
        strength: See its `Option`.

    Raises:
        UsageError: strength is outside [0, 1].
        InversionError: strength is below 1 and the inversion is replayed as a whole only ("bdia").
    """
    start = first_step(strength, task.num_steps)
    source = task.source if start == 0 else task.with_latents
    if start == task.num_steps:
        return task.edited(source.clean)
    latents = source.noise if start == source.start_index else source.latents_at(start)
    edited = task.sample(latents, start_index=start, replay=source)
    return task.edited(edited, notes=strength_notes(strength, task.num_steps))
