"""KV-Edit (Zhu et al., 2025), https://arxiv.org/abs/2502.17363: the background's keys and values are the image's own.

Inside a mask the target prompt is sampled; outside all latents are those of the inversion, and in every layer what is
inside reads the source's keys and values of the background. The background is reconstructed exactly.

Differs from the authors' code: keys and values are not stored by the inversion, 3 GB a step on FLUX, but computed in a
source branch that is set to its latents at every step; tokens on the mask's border belong to its inside.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sfumato.attention.image_tokens import SourceImageTokens
from sfumato.attention.patch import AttentionControl
from sfumato.edits.method import edit_method
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.errors import UsageError
from sfumato.models.schedules import Step
from sfumato.options import Option
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.pin import PinSource
from sfumato.sampling.shares import first_step, strength_notes


@edit_method(
    "kv-edit",
    summary="Samples the target prompt inside a mask, which reads the image's own background in every layer.",
    when="A region is known that alone may change, and the rest must stay exactly; something is removed, too.",
    cost="2 evaluations a step that is run (3 or 4 with classifier-free guidance), plus the inversion's.",
    inversions=("ddim", "direct", "fixed-point"),
    takes_mask=True,
    needs=("joint-attention",),
    refuses={
        **dict.fromkeys(("edit-friendly", "dpm-encoder"), "it belongs to a stochastic sampler"),
        "regularised-ddim": "it needs a diffusion's noise levels",
        **dict.fromkeys(("null-text", "negative-prompt", "bdia"), "its source is set to its latents; use direct"),
    },
)
def kv_edit(
    task: EditTask,
    *,
    strength: Annotated[
        float,
        Option("share of the steps that are run, from the clean end; lower keeps more inside, too", low=0, high=1),
    ] = 0.86,
    fresh_noise: Annotated[
        bool,
        Option("start from a draw of noise inside the mask instead of the inverted image: better to remove things"),
    ] = False,
) -> LatentEdit:
    """Samples the targets inside the task's mask.

    Args:
        task: With a mask, from an inversion with its trajectory, or from drawn noise, which is sampled first.
        strength, fresh_noise: See their `Option`.

    Raises:
        UsageError: There is no mask, or an option is out of range.
    """
    if task.mask is None:
        raise UsageError("kv-edit changes the inside of a mask alone: give one (--mask FILE, --mask-words WORD)")
    start, source = first_step(strength, task.num_steps), task.with_latents
    if start == task.num_steps:
        return task.edited(source.clean)
    inside = (task.mask.to(task.model.device) > 0.5).flatten(0, 1).any(dim=0)[None, None]
    layers = [site.name for site in task.model.sites(task.latent_size)]
    edit = SourceImageTokens(layers, outside=~_with_border(inside))
    latents = source.latents_at(start).to(task.model.device)
    starts = latents.expand(len(task.branches), *latents.shape)
    if fresh_noise:
        noise = draw_noise(latents.shape, task.generator, latents)
        level = task.steps_from(start)[0].level
        fresh = level.signal * source.clean.to(latents) + level.noise * noise
        starts = torch.cat([starts[:1], torch.where(inside, fresh, starts[1:])])

    def keep(latents: Tensor, step: Step) -> Tensor:
        known = source.latents_at(step.index + 1).to(latents)
        return torch.cat([latents[:1], torch.where(inside, latents[1:], known)])

    edited = task.sample(
        starts,
        start_index=start,
        controls=[AttentionControl([edit])],
        before_step=[PinSource(source.latents_at, start, task.num_steps)],
        on_step=[keep],
    )
    return task.edited(edited, notes=strength_notes(strength, task.num_steps))


def _with_border(inside: Tensor) -> Tensor:
    """The mask grown to whole tokens of 2 x 2 latents."""
    tokens = torch.nn.functional.max_pool2d(inside.float(), 2, ceil_mode=True)
    grown = tokens.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return grown[..., : inside.shape[-2], : inside.shape[-1]] > 0.5
