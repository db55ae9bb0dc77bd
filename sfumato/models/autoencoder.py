"""Models on the latents of an autoencoder: pixels to scaled latents and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.base import Model
from sfumato.models.memory import within_memory
from sfumato.models.ready import is_grouped


class LatentModel(Model):
    """A model whose latents are those of a diffusers autoencoder, shifted and scaled as its configuration says.

    Attributes:
        vae: The autoencoder.
    """

    vae: Any

    def take_autoencoder(self, vae: Any) -> None:
        """Sets `vae` and what follows from it; device and dtype are known by then.

        Raises:
            ModelError: It would have to be cast, and diffusers holds copies of its weights.
        """
        self.vae = vae
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        # An autoencoder marked so overflows in half precision
        upcast = self.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        self._vae_dtype = torch.float32 if upcast else self.dtype
        if vae.dtype != self._vae_dtype:
            if is_grouped(vae):
                raise ModelError(
                    f"the autoencoder of {self.name!r} overflows in fp16, and is offloaded by groups: call"
                    " pipeline.vae.to(torch.float32) before, or load the pipeline in bf16"
                )
            vae.to(dtype=self._vae_dtype)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.encode_pixels(pixels)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """The same as `encode_image`, differentiable."""
        batch = pixels.to(self.device, self._vae_dtype)
        unscaled = within_memory(self.vae, self._encoded, batch, batch.shape[-2] * batch.shape[-1])
        shift, scale = self._latent_scale()
        latents: Tensor = (unscaled.float() - shift) * scale
        return latents

    def decode_latents(self, latents: Tensor) -> Tensor:
        shift, scale = self._latent_scale()
        batch = (latents.to(self.device) / scale + shift).to(self.device, self._vae_dtype)
        side = self.vae_scale_factor
        pixels = within_memory(self.vae, self._decoded, batch, batch.shape[-2] * batch.shape[-1] * side**2)
        return pixels.float()

    def _encoded(self, pixels: Tensor) -> Tensor:
        with self.keeping_weights():
            encoded = self.vae.encode(pixels)
        # a tiny autoencoder gives the latents themselves
        latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents

    def _decoded(self, latents: Tensor) -> Tensor:
        with self.keeping_weights():
            pixels: Tensor = self.vae.decode(latents).sample
        return pixels

    def _latent_scale(self) -> tuple[Tensor | float, Tensor | float]:
        """(shift, scale) of latents = (what the autoencoder gives - shift) x scale; per channel where it says so."""
        config = self.vae.config
        shift, scale = getattr(config, "shift_factor", None) or 0.0, float(config.scaling_factor)
        means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if means is None and stds is None:
            return shift, scale
        mean, std = (
            torch.tensor(values or [default], device=self.device, dtype=torch.float32).view(1, -1, 1, 1)
            for values, default in ((means, shift), (stds, 1.0))
        )
        return mean, scale / std
