r"""Virtual inversion (Xu et al., 2023), https://arxiv.org/abs/2312.04965: the sampler of InfEdit.

A sampler that adds fresh noise at every step goes by the predicted clean latents alone. Of the source these are known,
so its path needs no inversion. The edited latents are those of the source plus the difference of the two predictions,

.. math:: y = x + \hat x_0(z_{target}) - \hat x_0(z_{source}),

and both go to the next level with the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.models.schedules import Prediction, Step
from sfumato.sampling.lcm import is_last, renoised


@dataclass(frozen=True, eq=False)
class VirtualInversion:
    """A stepper of the sampling loop; branch 0 is the source.

    Attributes:
        clean: Clean latents of the images, (image, channels, height, width).
    """

    clean: Tensor

    def init(self, latents: Tensor, first: Step) -> None:
        """Remembers nothing."""

    def stochastic(self, step: Step) -> bool:
        return not is_last(step)

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        clean = self.clean.to(latents)[None]
        edited = clean + (prediction.x0[1:] - prediction.x0[:1])
        return renoised(torch.cat([clean, edited]), step, z), None
