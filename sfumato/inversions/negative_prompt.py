"""Negative-prompt inversion (Miyake et al., 2023), https://arxiv.org/abs/2305.16807: null-text in closed form.

Where the network predicts the same noise at neighbouring levels, the optimum of null-text optimisation is the source
prompt's own embedding. So the source prompt is used as the negative prompt. Guidance then cancels in the source branch,
which is replayed as at guidance scale 1, and in the edited branches it acts against the source prompt.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Condition, Model


@inversion(
    "negative-prompt",
    summary="Uses the source prompt as the negative prompt, so that guidance cancels in the source branch.",
    when="Instead of null-text, at the cost of DDIM inversion; the reconstruction is that of DDIM inversion.",
    cost="1 evaluation a step.",
    source_guidance_scale=None,
)
def negative_prompt_inversion(task: InversionTask) -> Inversion:
    """Inverts clean latents, and uses the source prompt as the negative prompt.

    Costs one network evaluation a step and image.

    Returns:
        Noise, trajectory, the grid, and the source prompt as `null_embeds`.

    Warns:
        UserWarning: There is a negative prompt, which is then not used.
    """
    if task.negative is not None and not _is_empty(task.model, task.negative):
        warnings.warn(
            "the negative prompt is not used: negative-prompt inversion uses the source prompt instead; choose"
            " inversion 'direct' to use your own",
            stacklevel=3,
        )
    rows = task.condition.expand(len(task.latents))
    return replace(
        ddim_inversion(replace(task, negative=None)),
        method="negative-prompt",
        null_embeds=rows.text.expand(len(task.steps), -1, -1, -1),
        null_extras=rows.extras,
    )


def _is_empty(model: Model, negative: Condition) -> bool:
    empty = model.encode_prompt("").text
    return negative.tokens == empty.shape[1] and torch.allclose(
        negative.text.to(empty), empty.expand_as(negative.text), atol=1e-4
    )
