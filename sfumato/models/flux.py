"""FLUX.1 (Black Forest Labs, 2024), https://github.com/black-forest-labs/flux: dev and schnell.

Text tokens stand before image tokens. The network sees 2 x 2 latents as one token of (channel, row, column), which is
settled here: all others see (rows, channels, height, width). FLUX dev takes its guidance scale as an input, where 1 is
a value like any other; schnell was distilled without guidance, for four steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from sfumato.models.base import GUIDANCE, POOLED, Condition
from sfumato.models.flow_text import FluxText
from sfumato.models.flow_transformer import FlowTransformer
from sfumato.models.rectified_flow import TIMES, read_flow

_METHOD_GUIDANCE: Mapping[str, float] = MappingProxyType(
    {
        "flowedit": 5.5, "flowalign": 13.5, "dnaedit": 2.5, "rf-edit": 2.0, "fireflow": 2.0, "stable-flow": 3.0,
        "kv-edit": 5.5,
    }
)  # fmt: skip
_METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"flowedit": {"strength": 0.86, "source_guidance": 1.5}, "dnaedit": {"strength": 0.86}}
)
"""As the authors of these methods run FLUX dev."""

_DEV_LENGTH, _SCHNELL_LENGTH = 512, 256
"""Positions of T5's text."""


class Flux(FlowTransformer):
    """A `FluxTransformer2DModel`.

    Attributes:
        embedded_guidance: The scale to give a network that takes one, where guidance is to be classifier-free all the
            same, on top of it; None: the network is given the guidance scale of the run.
    """

    embedded_guidance: float | None = None

    @classmethod
    def from_pipeline(cls, pipeline: Any, *, name: str, revision: str) -> Self:
        """Takes the parts of a loaded diffusers pipeline; the text encoders may be missing."""
        config, reader = pipeline.transformer.config, None
        if pipeline.text_encoder is not None and pipeline.text_encoder_2 is not None:
            clip = (pipeline.tokenizer, pipeline.text_encoder)
            t5 = (pipeline.tokenizer_2, pipeline.text_encoder_2)
            reader = FluxText(clip, t5, _DEV_LENGTH if config.guidance_embeds else _SCHNELL_LENGTH)
        model = cls(
            transformer=pipeline.transformer, vae=pipeline.vae, reader=reader,
            schedule=read_flow(pipeline.scheduler.config, grid="linspace"), name=name, revision=revision,
            channels=int(config.in_channels) // cls.patch**2,
        )  # fmt: skip
        if config.guidance_embeds:
            model.guidance_scale = 3.5
            model.method_guidance, model.method_options = _METHOD_GUIDANCE, _METHOD_OPTIONS
        else:
            model.guidance_scale, model.num_inference_steps, model.few_steps = 1.0, 4, True
            model.notes = ("a few-step model (schnell): 4 steps and guidance 1 (off) by default",)
        return model

    @property
    def takes_guidance(self) -> bool:  # type: ignore[override]
        return bool(self.transformer.config.guidance_embeds) and self.embedded_guidance is None

    def _velocity(self, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
        height, width = latents.shape[-2:]
        output: Tensor = self.transformer(
            packed(latents, self.patch),
            timestep=times / TIMES,
            encoder_hidden_states=condition.text.to(latents),
            pooled_projections=condition.extras[POOLED].to(latents),
            guidance=self._guidance(len(latents), condition),
            img_ids=positions((height // self.patch, width // self.patch)).to(latents),
            txt_ids=torch.zeros(condition.tokens, 3).to(latents),
            return_dict=False,
        )[0]
        return unpacked(output, (height, width), self.patch)

    def _guidance(self, rows: int, condition: Condition) -> Tensor | None:
        """The scale that each row is given, (rows,); None for a network without such an input."""
        if not self.transformer.config.guidance_embeds:
            return None
        scale = 1.0 if self.embedded_guidance is None else self.embedded_guidance
        scales = condition.extras.get(GUIDANCE, torch.full((rows,), scale))
        return scales.to(self.device, torch.float32)

    def _places(self, positions: int) -> tuple[slice, slice]:
        return slice(-positions, None), slice(0, -positions)


def packed(latents: Tensor, patch: int = 2) -> Tensor:
    """Tokens row by row, (rows, tokens, channels patch patch), of latents (rows, channels, height, width)."""
    patches = latents.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # (rows, channels, h, patch, w, patch)
    tokens: Tensor = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return tokens


def unpacked(tokens: Tensor, size: tuple[int, int], patch: int = 2) -> Tensor:
    """Latents of (height, width), the inverse of `packed`."""
    height, width = size[0] // patch, size[1] // patch
    patches = tokens.unflatten(1, (height, width)).unflatten(-1, (-1, patch, patch))
    latents: Tensor = patches.permute(0, 3, 1, 4, 2, 5).flatten(-2).flatten(-3, -2)
    return latents


def positions(grid: tuple[int, int]) -> Tensor:
    """(tokens, 3): 0, row and column of each image token."""
    axes = (torch.zeros(1), torch.arange(float(grid[0])), torch.arange(float(grid[1])))
    return torch.cartesian_prod(*axes)
