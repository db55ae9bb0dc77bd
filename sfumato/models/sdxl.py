"""Stable Diffusion XL: two text encoders, a pooled embedding, and micro-conditions on the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from sfumato.models.base import POOLED, Condition
from sfumato.models.scheduling import schedule_of
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.models.text import chunked_ids, penultimate


class StableDiffusionXL(StableDiffusion):
    """The base model and its distilled kin (SDXL-Turbo).

    Reference: Podell et al., 2023, https://arxiv.org/abs/2307.01952, section 2.2 for the micro-conditions. The original
    and target sizes are the image's own, the crop is (0, 0).
    """

    zeroes_empty_negative = False
    usual_side = 128
    unused_text_layers = 1

    @classmethod
    def from_pipeline(cls, pipeline: Any, *, name: str, revision: str) -> Self:
        model = cls(
            unet=pipeline.unet,
            vae=pipeline.vae,
            text_encoders=[pipeline.text_encoder, pipeline.text_encoder_2],
            tokenizers=[pipeline.tokenizer, pipeline.tokenizer_2],
            schedule=schedule_of(pipeline),
            name=name,
            revision=revision,
        )
        model.zeroes_empty_negative = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))
        return model

    @torch.no_grad()
    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        count = max(chunked_ids(tokenizer, texts).shape[1] for tokenizer in self.tokenizers)
        pairs = zip(self.tokenizers, self.text_encoders, strict=True)
        encoded = [penultimate(*pair, texts, count, skip=self.clip_skip) for pair in pairs]
        pooled = encoded[-1][1]
        condition = Condition(torch.cat([embeds for embeds, _ in encoded], dim=-1), {POOLED: pooled})
        if self.zeroes_empty_negative:
            keep = torch.tensor([text != "" for text in texts], device=self.device)
            condition = condition.each(lambda tensor: tensor * keep.view(-1, *[1] * (tensor.ndim - 1)))
        return condition

    def _added_conditions(self, latents: Tensor, condition: Condition) -> dict[str, Tensor] | None:
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=self.dtype)
        pooled = condition.extras[POOLED].to(self.device, self.dtype)
        return {"text_embeds": pooled, "time_ids": sizes.expand(len(latents), -1)}
