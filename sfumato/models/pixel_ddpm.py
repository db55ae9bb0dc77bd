"""Pixel-space unconditional diffusion models: diffusers' `DDPMPipeline` and `DDIMPipeline` (a `UNet2DModel`).

Their latents are the pixels themselves, and they know no text: every prompt gives the same empty condition.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import AttentionSite, FeatureHook, KernelHook, ProjectionHook, SourceHook
from sfumato.models.base import Condition, Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.hooks import feature_hooked, kernel_hooked, projection_hooked, projections, source_hooked
from sfumato.models.prompt_syntax import plain_text
from sfumato.models.scheduling import schedule_of
from sfumato.models.sites import attention_layers, sites_of


class NoText:
    """The text side of a model that has none: no word has a position."""

    length = start = 0

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        return [(word, ()) for word in plain_text(prompt).split()]

    def tokens(self, prompt: str) -> list[tuple[int, str]]:
        return []


class UnconditionalDDPM(Model):
    """A network on pixels alone, (batch, 1 or 3 channels, height, width) in [-1, 1].

    Where the network also returns a variance (Nichol & Dhariwal, 2021), it is split off: samplers bring their own.
    Guidance has nothing to act on, so it is off by default.
    """

    guidance_scale = 1.0

    def __init__(self, *, unet: Any, schedule: DiscreteVP, name: str, revision: str) -> None:
        """Takes a loaded `UNet2DModel`; see `load_model` for the usual way.

        Raises:
            ModelError: The network takes classes, or its channels are not those of images.
        """
        self.unet, self.schedule, self.name, self.revision = unet, schedule, name, revision
        self.device, self.dtype = unet.device, unet.dtype
        self.text = NoText()
        config = unet.config
        self.latent_channels = int(config.in_channels)
        if self.latent_channels not in (1, 3) or config.out_channels not in (
            self.latent_channels,
            2 * self.latent_channels,
        ):
            raise ModelError(
                f"the network of {name} maps {config.in_channels} channels to {config.out_channels}; an unconditional"
                " pixel-space model takes 1 or 3 and gives as many, or twice as many with a variance"
            )
        if getattr(unet, "class_embedding", None) is not None:
            raise ModelError(f"the network of {name} takes a class label; only unconditional ones are supported")
        self.vae_scale_factor = 1
        self._halvings = len(config.down_block_types) - 1
        side = config.sample_size or 2**self._halvings
        height, width = (side, side) if isinstance(side, int) else side
        self.sample_size = (height, width)
        unet.eval().requires_grad_(False)

    @classmethod
    def from_pipeline(cls, pipeline: Any, *, name: str, revision: str) -> Self:
        """Takes the parts of a loaded diffusers pipeline.

        Raises:
            ModelError: As the constructor, or the scheduler is not known.
        """
        return cls(unet=pipeline.unet, schedule=schedule_of(pipeline), name=name, revision=revision)

    @property
    def networks(self) -> tuple[object, ...]:
        return (self.unet,)

    @property
    def size_multiple(self) -> int:
        """The network halves its grid, and cannot restore odd sides."""
        return int(2**self._halvings)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """The pixels; their mean over the colours for a network of grey images."""
        pixels = pixels.to(self.device).float()
        return pixels.mean(dim=1, keepdim=True) if self.latent_channels == 1 else pixels

    def decode_latents(self, latents: Tensor) -> Tensor:
        """The latents, grey ones in three equal channels."""
        return latents.float().expand(-1, 3, -1, -1) if self.latent_channels == 1 else latents.float()

    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        """Rows without tokens, whatever is asked for."""
        rows = 1 if isinstance(prompts, str) else len(prompts)
        return Condition(torch.zeros(rows, 0, 0, device=self.device, dtype=self.dtype))

    def predict(self, latents: Tensor, t: float | Sequence[float], condition: Condition) -> Tensor:
        self.evaluations += len(latents)
        height, width = latents.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise UsageError(
                f"height and width must be multiples of {self.size_multiple} for {self.name}, got {height}x{width}"
            )
        with self.keeping_weights():
            output: Tensor = self.unet(
                latents.to(self.device, self.dtype), torch.tensor(t, device=self.device), return_dict=False
            )[0]
        return output[:, : self.latent_channels].to(latents.dtype)

    def sites(self, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
        return sites_of(self.unet, latent_size)

    def kernel_hook(self, hook: KernelHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        return kernel_hooked(attention_layers(self.unet), hook, sites)

    def source_hook(self, hook: SourceHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        return source_hooked(attention_layers(self.unet), hook, sites)

    def feature_hook(self, layer_names: Sequence[str], hook: FeatureHook) -> AbstractContextManager[None]:
        return feature_hooked(self.unet, layer_names, hook)

    def attention_projections(self) -> dict[str, tuple[int, int]]:
        found = projections(attention_layers(self.unet))
        return {name: (layer.in_features, layer.out_features) for name, layer in found.items()}

    def projection_hook(self, names: Collection[str], hook: ProjectionHook) -> AbstractContextManager[None]:
        return projection_hooked(attention_layers(self.unet), names, hook)
