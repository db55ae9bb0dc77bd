"""Negative-prompt inversion (Miyake et al., 2023), https://arxiv.org/abs/2305.16807: null-text in closed form.

Where the network predicts the same noise over neighbouring levels, the optimum of null-text optimisation is the source
prompt's own embedding. So the source prompt stands in for the empty one: guidance then cancels in the source branch,
which replays as at guidance 1, and leads the edited branches away from what the picture showed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.models.base import Condition, Model
from sfumato.registry import inversion
from sfumato.sampling.draws import Generators
from sfumato.watch import Watch


@inversion(
    "negative-prompt",
    title="Negative-prompt inversion",
    paper="Miyake et al., 2023, https://arxiv.org/abs/2305.16807",
    summary="Guides away from the source prompt instead of the empty one, so that guidance cancels in the source.",
    when="As null-text, at the price of DDIM inversion; the source comes back as well as DDIM inversion brings it.",
    cost="1 evaluation a step.",
    source_guidance_scale=None,
)
def negative_prompt_inversion(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    timesteps: Sequence[int] | None = None,
    generator: Generators = None,
    watch: Watch | None = None,
) -> Inversion:
    """Carries clean latents to noise, and puts the source prompt in the empty prompt's place.

    Costs one network evaluation a step and image.

    Args:
        model: Any model.
        latents: Clean latents x_0, (image, channels, height, width).
        condition: The source prompt; one row, or one an image.
        negative: The source prompt takes its place; a warning where it is not the empty prompt.
        guidance_scale: That of the source branch in the replay; any comes back alike.
        num_inference_steps: Steps of the grid that sampling will use.
        timesteps: An explicit grid instead, noisiest first.
        generator: Not used: nothing is drawn.
        watch: Progress and cancellation.

    Returns:
        Noise, trajectory, the grid, and the source prompt as `null_embeds`.
    """
    if negative is not None and not _is_empty(model, negative):
        warnings.warn(
            "the negative prompt is not used: negative-prompt inversion puts the source prompt in its place; take"
            " inversion 'direct' to have both",
            stacklevel=3,
        )
    found: Inversion = ddim_inversion(
        model, latents, condition, num_inference_steps=num_inference_steps, timesteps=timesteps, watch=watch
    )
    rows = condition.expand(len(found.noise))
    return replace(
        found,
        method="negative-prompt",
        null_embeds=rows.prompt_embeds.expand(len(found.timesteps), -1, -1, -1),
        null_pooled_embeds=rows.pooled_embeds,
        guidance_scale=guidance_scale,
    )


def _is_empty(model: Model, negative: Condition) -> bool:
    empty = model.encode_prompt("").prompt_embeds
    return negative.prompt_embeds.shape[1] == empty.shape[1] and torch.allclose(
        negative.prompt_embeds.to(empty), empty.expand_as(negative.prompt_embeds), atol=1e-4
    )
