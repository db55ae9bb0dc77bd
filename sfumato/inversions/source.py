"""The source branch alone: its guided prediction at any latents, as in the replay."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Level, Prediction
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Layout


class SourceBranch:
    """Predicts noise for a batch of images under one prompt each, with guidance.

    Attributes:
        cond, uncond: Rows of the source prompt and of the negative one, one an image, of equally many tokens.
        guidance_scale: 1 = off.
    """

    def __init__(
        self, model: Model, latents: Tensor, condition: Condition, negative: Condition | None, guidance_scale: float
    ) -> None:
        """Takes latents for their shape, (image, channels, height, width).

        One network evaluation a call and image, two with guidance; one again where the prompts are the same.

        Args:
            model: Any model.
            latents: Any latents of the run.
            condition: The source prompt; one row, or one an image.
            negative: The negative prompt; None: the empty one.
            guidance_scale: 1 = off.
        """
        empty, images = model.encode_prompt(""), len(latents)
        negative = negative or empty
        self.model, self.guidance_scale = model, guidance_scale
        rows = Condition.equally_long([condition, negative], empty)
        self.cond, self.uncond = (row.expand(images) for row in rows)
        guided = guidance_scale != 1.0 and not self.uncond.equals(self.cond)
        self._halves = guidance_halves(model, guided)
        self._rows = self._both(self.cond, self.uncond)
        self._scales = torch.tensor([guidance_scale])
        self._size = (latents.shape[-2], latents.shape[-1])

    def _both(self, cond: Condition, uncond: Condition) -> Condition:
        return Condition.cat([uncond, cond]) if len(self._halves) == 2 else cond

    def predict(self, latents: Tensor, time: float, level: Level, images: list[int] | None = None) -> Prediction:
        """Clean latents and noise, after guidance.

        Args:
            latents: (image, channels, height, width).
            time: What the network is conditioned on.
            level: Level of the latents.
            images: Which images of the batch they are; None: all.
        """
        rows = self._rows if images is None else self._both(self.cond[images], self.uncond[images])
        layout = Layout(self._halves, ("source",), len(latents), self._size)
        output = guided_output(self.model, latents[None], time, rows, self._scales.to(latents), layout)[0]
        return self.model.schedule.split(output, latents, level)
