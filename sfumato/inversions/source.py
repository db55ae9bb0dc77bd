"""The source branch alone, as the replay will see it: its guided prediction at any latents."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Layout


class SourceBranch:
    """Predicts noise for a batch of images under one prompt each, with guidance.

    Attributes:
        evaluations: Network evaluations of one call for one image: 2 with guidance, else 1.
    """

    def __init__(
        self, model: Model, latents: Tensor, condition: Condition, negative: Condition | None, guidance_scale: float
    ) -> None:
        """Takes latents for their shape, (image, channels, height, width).

        Args:
            model: Any model.
            latents: Any latents of the run.
            condition: The source prompt; one row, or one an image.
            negative: What guidance leads away from; None: the empty prompt.
            guidance_scale: 1 = off.
        """
        empty, images = model.encode_prompt(""), len(latents)
        given, away = condition.expand(images), negative or empty
        tokens = max(given.prompt_embeds.shape[1], away.prompt_embeds.shape[1])
        self.model, self.guidance_scale = model, guidance_scale
        self.cond = given.padded(tokens, empty)
        self.uncond = away.padded(tokens, empty).expand(images)
        self._halves = guidance_halves(model, guidance_scale != 1.0)
        self.evaluations = len(self._halves)
        self._size = (latents.shape[-2], latents.shape[-1])

    def predict(
        self, latents: Tensor, t: int, alpha_bar: float, images: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """`noise_pred` and `x0_pred`, each shaped like the latents.

        Args:
            latents: (image, channels, height, width).
            t: Timestep told to the network.
            alpha_bar: Level of the latents.
            images: Which images of the batch they are; None: all.
        """
        rows = self.cond if images is None else self.cond[images]
        if len(self._halves) == 2:
            rows = Condition.cat([self.uncond if images is None else self.uncond[images], rows])
        layout = Layout(self._halves, ("source",), len(latents), self._size)
        scales = torch.tensor([self.guidance_scale]).to(latents)
        output = guided_output(self.model, latents[None], t, rows, scales, layout)[0]
        return self.model.schedule.noise_and_x0(output, latents, alpha_bar)


def working_latents(model: Model, latents: Tensor) -> Tensor:
    """Latents on the model's device in the precision that inversions keep: float64 stays, all else is float32."""
    latents = latents.to(model.device)
    return latents if latents.dtype == torch.float64 else latents.float()
