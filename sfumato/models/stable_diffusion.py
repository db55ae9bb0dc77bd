"""Stable Diffusion 1.x and 2.x, and every model in its layout (the embedded `emoji` model among them)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.attention import AttentionSite, DecoderBlock, FeatureHook, KernelHook, ProjectionHook, SourceHook
from sfumato.models.autoencoder import LatentModel
from sfumato.models.base import GUIDANCE, Condition
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.feature_cache import FeatureCache, deep_features_kept, has_deep_stages
from sfumato.models.hooks import feature_hooked, kernel_hooked, projection_hooked, projections, source_hooked
from sfumato.models.scheduling import schedule_of
from sfumato.models.sites import attention_layers, decoder_blocks_of, sites_of
from sfumato.models.text import ClipText, chunked_ids, fingerprint, reweighted


class StableDiffusion(LatentModel):
    """A UNet with cross-attention on one CLIP text encoder, predicting noise (1.x, 2.x base) or velocity (2.x)."""

    usual_side = 64
    """Of the latents, where the network does not say what it was trained at."""
    unused_text_layers = 0
    """Last layers of its text encoders that the model was trained without."""
    clip_skip = 0
    """Last layers that are left out beside them."""

    def __init__(
        self, *, unet: Any, vae: Any, text_encoders: Sequence[Any], tokenizers: Sequence[Any], schedule: DiscreteVP,
        name: str, revision: str,
    ) -> None:  # fmt: skip
        """Takes loaded networks, on one device and in one dtype; see `load_model` for the usual way."""
        self.unet, self.text_encoders = unet, list(text_encoders)
        pairs = zip(tokenizers, text_encoders, strict=True)
        self.tokenizers = [ClipText(tokenizer, encoder) for tokenizer, encoder in pairs]
        self.text: ClipText = self.tokenizers[0]
        self.schedule, self.name, self.revision = schedule, name, revision
        self.device, self.dtype = unet.device, unet.dtype
        self.latent_channels = int(unet.config.in_channels)
        if self.latent_channels != int(vae.config.latent_channels):
            raise ModelError(
                f"{name!r} takes {self.latent_channels} channels where its autoencoder gives"
                f" {vae.config.latent_channels}: inpainting and depth models are not supported, use the base model"
            )
        side = unet.config.sample_size or self.usual_side
        height, width = (side, side) if isinstance(side, int) else side
        self.takes_guidance = bool(getattr(unet.config, "time_cond_proj_dim", None))
        self.caches_features = has_deep_stages(unet)
        for network in (unet, vae, *self.text_encoders):
            network.eval().requires_grad_(False)
        self.take_autoencoder(vae)
        self.sample_size = (height * self.vae_scale_factor, width * self.vae_scale_factor)

    @classmethod
    def from_pipeline(cls, pipeline: Any, *, name: str, revision: str) -> Self:
        """Takes the parts of a loaded diffusers pipeline."""
        return cls(
            unet=pipeline.unet,
            vae=pipeline.vae,
            text_encoders=[pipeline.text_encoder],
            tokenizers=[pipeline.tokenizer],
            schedule=schedule_of(pipeline),
            name=name,
            revision=revision,
        )

    @torch.no_grad()
    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        texts = [prompts] if isinstance(prompts, str) else list(prompts)

        def encoded(texts: Sequence[str]) -> Tensor:
            chunks = chunked_ids(self.text, texts).to(self.device)
            output = self._encoder_output(chunks.flatten(0, 1))  # (rows x chunks, tokens, dim)
            embeds: Tensor = output.unflatten(0, chunks.shape[:2]).flatten(1, 2)
            return embeds

        return Condition(reweighted(encoded(texts), self.text, texts, lambda: encoded([""])))

    def _encoder_output(self, ids: Tensor) -> Tensor:
        encoder = self.text_encoders[0]
        if not self.clip_skip:
            output: Tensor = encoder(ids)[0]
            return output
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-1 - self.clip_skip]
        normed: Tensor = getattr(encoder, "text_model", encoder).final_layer_norm(hidden)
        return normed

    def skip_text_layers(self, count: int) -> None:
        """Leaves out the last layers of the text encoders; what is pooled still comes from the last.

        Raises:
            ModelError: One has not that many.
        """
        most = min(int(encoder.config.num_hidden_layers) for encoder in self.text_encoders) - self.unused_text_layers
        if count > most:
            raise ModelError(f"clip_skip must be at most {most} for the text encoder of {self.name!r}, got {count}")
        self.clip_skip = count

    @property
    def networks(self) -> tuple[object, ...]:
        return (self.unet, self.vae, *self.text_encoders)

    @property
    def text_fingerprint(self) -> str:
        found = fingerprint(self.text_encoders, self.tokenizers)
        return f"{found}-{self.clip_skip}" if self.clip_skip else found

    def predict(self, latents: Tensor, t: float | Sequence[float], condition: Condition) -> Tensor:
        self.evaluations += len(latents)
        with self.keeping_weights():
            output: Tensor = self.unet(
                latents.to(self.device, self.dtype),
                torch.tensor(t, device=self.device),
                encoder_hidden_states=condition.text.to(self.device, self.dtype),
                added_cond_kwargs=self._added_conditions(latents, condition),
                timestep_cond=self._guidance_embedding(len(latents), condition),
                return_dict=False,
            )[0]
        return output.to(latents.dtype)

    def _guidance_embedding(self, rows: int, condition: Condition) -> Tensor | None:
        """The guidance scale as a network distilled with guidance takes it (rows, dim), None for any other network.

        Reference: Meng et al., 2023, https://arxiv.org/abs/2210.03142; as released with latent consistency models:
        sines, then cosines, of 1000 (guidance_scale - 1) 10000^(-i / (dim / 2 - 1)).
        """
        if not self.takes_guidance:
            return None
        scale = condition.extras.get(GUIDANCE, torch.ones(rows))
        dim = int(self.unet.config.time_cond_proj_dim)
        half = dim // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10000.0) / max(half - 1, 1))).to(self.device)
        angles = 1000.0 * (scale.to(self.device, torch.float32) - 1.0)[:, None] * frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        return torch.nn.functional.pad(embedding, (0, dim - 2 * half)).to(self.dtype)

    def _added_conditions(self, latents: Tensor, condition: Condition) -> dict[str, Tensor] | None:
        return None

    def sites(self, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
        return sites_of(self.unet, latent_size)

    def decoder_blocks(self) -> tuple[DecoderBlock, ...]:
        return decoder_blocks_of(self.unet)

    def kernel_hook(self, hook: KernelHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        return kernel_hooked(attention_layers(self.unet), hook, sites)

    def source_hook(self, hook: SourceHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        return source_hooked(attention_layers(self.unet), hook, sites)

    def feature_hook(self, layer_names: Sequence[str], hook: FeatureHook) -> AbstractContextManager[None]:
        return feature_hooked(self.unet, layer_names, hook)

    def cached_features(self) -> AbstractContextManager[FeatureCache]:
        return deep_features_kept(self.unet) if self.caches_features else super().cached_features()

    def attention_projections(self) -> dict[str, tuple[int, int]]:
        found = projections(attention_layers(self.unet))
        return {name: (layer.in_features, layer.out_features) for name, layer in found.items()}

    def projection_hook(self, names: Collection[str], hook: ProjectionHook) -> AbstractContextManager[None]:
        return projection_hooked(attention_layers(self.unet), names, hook)
