"""DDIM steps of frames that are noised, not inverted: between any levels of the grid, each with its own embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.morphs.slerp import slerp
from sfumato.sampling.ddim import ddim_step
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Layout


class Denoiser:
    """DDIM steps of frames between two images.

    Args:
        model: Any model.
        prompts: Of both images, two rows; a frame's is on the great circle between them.
        negative: The negative prompt, one row.
        guidance_scale: Of all frames.
        timesteps: The grid, noisiest first.

    Attributes:
        model: The same.
        steps: By position on the grid, cleanest first.
    """

    def __init__(
        self, model: Model, prompts: Condition, negative: Condition, guidance_scale: float, timesteps: Sequence[float]
    ) -> None:
        self.model, self.steps = model, model.schedule.steps(timesteps=timesteps)[::-1]
        self._guidance_scale, self._halves = guidance_scale, guidance_halves(model, guidance_scale != 1.0)
        self._prompts, self._negative = Condition.equally_long([prompts, negative], model.encode_prompt(""))

    def condition(self, weights: Sequence[float]) -> Condition:
        """The rows of a batch of frames at these weights."""

        def walk(tensor: Tensor) -> Tensor:
            return torch.cat([slerp(tensor[:1], tensor[1:], weight) for weight in weights])

        rows = self._prompts.each(walk)
        return rows if len(self._halves) == 1 else Condition.cat([self._negative.expand(len(weights)), rows])

    @torch.no_grad()
    def __call__(self, latents: Tensor, position: int, condition: Condition) -> Tensor:
        """Frames, (frame, channels, height, width), one step cleaner than at a position on the grid."""
        model, step = self.model, self.steps[position]
        layout = Layout(self._halves, ("frames",), len(latents), (latents.shape[-2], latents.shape[-1]))
        scales = torch.tensor([self._guidance_scale]).to(latents)
        output = guided_output(model, latents[None], step.time, condition, scales, layout)[0]
        return ddim_step(model.schedule.split(output, latents, step.level), step.level, step.level_prev)
