"""Stable Diffusion 3 and 3.5 (Esser et al., 2024), https://arxiv.org/abs/2403.03206.

Image tokens stand before text tokens. Guidance is classifier-free, the time is 1000 sigma, and the levels of a run are
laid as diffusers' pipeline does: over a table that is shifted already (`RectifiedFlow.grid` "table").
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.base import POOLED, Condition
from sfumato.models.flow_text import SD3Text
from sfumato.models.flow_transformer import FlowTransformer
from sfumato.models.rectified_flow import read_flow

T5_LENGTH = 256


class StableDiffusion3(FlowTransformer):
    """An `SD3Transformer2DModel`: of SD3, or of SD3.5 with its norms and its second attention."""

    guidance_scale = 7.0
    method_guidance: Mapping[str, float] = MappingProxyType({"flowedit": 13.5, "flowalign": 13.5, "dnaedit": 3.5})
    method_options: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {"flowedit": {"strength": 0.66, "source_guidance": 3.5}, "dnaedit": {"strength": 0.68}}
    )
    """As the authors of these methods run this model."""

    @classmethod
    def from_pipeline(cls, pipeline: Any, *, name: str, revision: str) -> Self:
        """Takes the parts of a loaded diffusers pipeline; T5, or all text encoders, may be missing."""
        clips = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
        t5 = None if pipeline.text_encoder_3 is None else (pipeline.tokenizer_3, pipeline.text_encoder_3)
        config, reader = pipeline.transformer.config, None
        if all(encoder is not None for _, encoder in clips):
            reader = SD3Text(clips[0], clips[1], t5, length=T5_LENGTH, width=int(config.joint_attention_dim))
        model = cls(
            transformer=pipeline.transformer, vae=pipeline.vae, reader=reader,
            schedule=read_flow(pipeline.scheduler.config, grid="table"), name=name, revision=revision,
            channels=int(config.in_channels),
        )  # fmt: skip
        if config.qk_norm is not None:  # SD3.5, which its authors run at less guidance
            model.guidance_scale = 4.5
        return model

    def _velocity(self, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.transformer(
            latents,
            timestep=times,
            encoder_hidden_states=condition.text.to(latents),
            pooled_projections=condition.extras[POOLED].to(latents),
            return_dict=False,
        )[0]
        return output

    def _places(self, positions: int) -> tuple[slice, slice]:
        return slice(positions), slice(positions, None)

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        channels, height, width = super().latent_shape(size)
        most = int(self.transformer.config.pos_embed_max_size) * self.patch
        if max(height, width) > most:
            pixels = most * self.vae_scale_factor
            raise UsageError(
                f"{self.name} knows positions up to {pixels}x{pixels} pixels, got"
                f" {height * self.vae_scale_factor}x{width * self.vae_scale_factor}"
            )
        return channels, height, width
