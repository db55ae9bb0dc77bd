"""A negative prompt that grows over the run: it replaces the empty prompt step by step.

Source: the first release of Plug-and-Play (github.com/MichalGeyer/plug-and-play, where it is called the negative
prompt's schedule); not in the paper.
"""

from __future__ import annotations

from math import exp
from typing import Literal

import torch
from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.guidance import combined
from sfumato.sampling.layout import Layout

NegativeGrowth = Literal["none", "linear", "exponential", "constant"]


class GrowingNegative:
    r"""Guidance away from a mixture of the predictions without text and under the negative prompt.

    .. math:: \epsilon_b + w (\epsilon_c - \epsilon_b), \quad \epsilon_b = (1 - a_i) \epsilon_\emptyset + a_i \epsilon_n

    with the shares :math:`a_i` of the negative prompt from `negative_shares`.
    """

    def __init__(self, shares: list[float], guidance_scale: float) -> None:
        """Takes the share of each step, and w."""
        self.shares, self.guidance_scale = shares, guidance_scale

    def guided(self, empty: Tensor, negative: Tensor, cond: Tensor, step: Step) -> Tensor:
        """Guided output of the three predictions, all of one shape."""
        base = torch.lerp(empty, negative, self.shares[step.index])
        return base + self.guidance_scale * (cond - base)

    def guide(
        self, model: Model, latents: Tensor, step: Step, condition: Condition, scales: Tensor, layout: Layout
    ) -> Tensor:
        """A `guide` of the loop for branches (source, targets, negatives), with no text in the unconditional half.

        The negative branches hold the same latents as the targets, and their conditional half the negative prompt.
        """
        targets = (len(latents) - 1) // 2
        rows = latents.flatten(0, 1).repeat(2, 1, 1, 1)
        output = model.predict(rows, step.time, condition).unflatten(0, layout.axes)  # (guidance, branch, image, ...)
        (_, empty, _), (_, cond, negative) = (half.split([1, targets, targets]) for half in output)
        edited = self.guided(empty, negative, cond, step)
        return torch.cat([combined(output[:, :1], scales[:1]), edited, edited])


def negative_shares(growth: NegativeGrowth, start: float, num_inference_steps: int) -> list[float]:
    """Share of the negative prompt at each step: 1 - (1 - start) s_i.

    s falls from 1 at the first step to 0 at the last ("linear"), to exp(-6) ("exponential"), or stays ("constant");
    "none": the share is 1 throughout.
    """
    run = [index / max(num_inference_steps - 1, 1) for index in range(num_inference_steps)]
    left = {
        "none": [0.0] * num_inference_steps,
        "linear": [1.0 - done for done in run],
        "exponential": [exp(-6.0 * done) for done in run],
        "constant": [1.0] * num_inference_steps,
    }[growth]
    return [1.0 - (1.0 - start) * share for share in left]
