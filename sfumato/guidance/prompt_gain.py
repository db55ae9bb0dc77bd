"""Energies that say how far an edit has gone from the source prompt to the target prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics.text_agreement import directional_agreement
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import add_noise
from sfumato.sampling.draws import Generators, alike, draw_noise

DRAWS = 8


@dataclass(frozen=True)
class DirectionalAgreement:
    """1 - directional agreement with a change of text, the energy that the paper ranks by.

    Attributes:
        encode_image: Image side of a CLIP-like dual encoder: pixels (rows, 3, H, W) to (rows, dim).
        source_pixels: The original images, (image, 3, H, W).
        source_text_embeds, target_text_embeds: What its text side gives, (1, dim) or one an image.
    """

    encode_image: Callable[[Tensor], Tensor]
    source_pixels: Tensor
    source_text_embeds: Tensor
    target_text_embeds: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        source = self.encode_image(self.source_pixels.to(images))
        texts = self.target_text_embeds.to(source), self.source_text_embeds.to(source)
        return 1.0 - directional_agreement(self.encode_image(images), source, *texts)


class PromptGain:
    """How much better the source prompt explains latents than the target prompt: the model judges its own edit.

    Difference of the denoising errors under the two prompts, over the same noises at levels in the middle of the
    schedule. Costs 2 evaluations a draw and image. One target prompt for all images, or one an image. Where there is a
    single generator it draws the same noises for all images.

    Reference: the diffusion classifier, Li et al., 2023, https://arxiv.org/abs/2303.16203, Eq. 5.
    """

    def __init__(
        self,
        model: Model,
        source_prompt: str,
        target_prompt: str | Sequence[str],
        *,
        draws: int = DRAWS,
        generator: Generators = None,
    ) -> None:
        self.model, self.draws, self.generator = model, draws, generator
        targets = [target_prompt] if isinstance(target_prompt, str) else list(target_prompt)
        self.condition = model.encode_prompt([source_prompt, *targets])
        self.noise: Tensor | None = None
        shares = [0.3 + 0.4 * k / max(draws - 1, 1) for k in range(draws)]
        self.times: list[float] = model.schedule.train_times(torch.tensor(shares, dtype=torch.float64)).tolist()

    def __call__(self, images: Tensor) -> Tensor:
        if self.noise is None:  # the same for all candidates
            shape = alike((self.draws, *images.shape), self.generator)
            self.noise = draw_noise(shape, self.generator, images)
        gains = []
        for t, noise in zip(self.times, self.noise, strict=True):
            noisy = add_noise(images, noise, self.model.schedule.level(t))
            halves = self.condition[[0]], self.condition[slice(1, None)]
            rows = Condition.cat([half.expand(len(images)) for half in halves])
            predicted = self.model.predict_noise(noisy.repeat(2, 1, 1, 1), t, rows).unflatten(0, (2, len(images)))
            errors = (predicted - noise).square().flatten(2).mean(dim=2)
            gains.append(errors[1] - errors[0])
        return torch.stack(gains).mean(dim=0)
