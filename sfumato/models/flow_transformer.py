"""What SD3 and FLUX share: a transformer on image and text as one sequence, trained as a rectified flow.

The two adapters say how latents become tokens, what else the network takes, and where text stands among the keys.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import AttentionSite, FeatureHook, KernelHook, ProjectionHook, SourceHook
from sfumato.models.autoencoder import LatentModel
from sfumato.models.base import Condition
from sfumato.models.flow_text import PromptReader
from sfumato.models.hooks import feature_hooked, kernel_hooked, projection_hooked, projections, source_hooked
from sfumato.models.pixel_ddpm import NoText
from sfumato.models.rectified_flow import RectifiedFlow
from sfumato.models.sites import attention_layers

_ALL = slice(None)


class FlowTransformer(LatentModel):
    """A transformer on patches of 2 x 2 latents.

    Attributes:
        transformer: The network.
        reader: Reads prompts; None: the model came without text encoders, and knows the prompts given to it alone.
    """

    num_inference_steps = 28
    patch = 2
    """Latents along a side of a token."""

    def __init__(
        self, *, transformer: Any, vae: Any, reader: PromptReader | None, schedule: RectifiedFlow, name: str,
        revision: str, channels: int,
    ) -> None:  # fmt: skip
        """Takes loaded networks in one dtype, on one device; see `load_model` for the usual way.

        Raises:
            ModelError: The network takes other latents than the autoencoder gives.
        """
        self.transformer, self.reader = transformer, reader
        self.text = NoText() if reader is None else reader
        self.schedule, self.name, self.revision = schedule, name, revision
        self.device, self.dtype = transformer.device, transformer.dtype
        self.latent_channels = channels
        if channels != int(vae.config.latent_channels):
            raise ModelError(
                f"{name!r} takes {channels} channels where its autoencoder gives {vae.config.latent_channels}:"
                " inpainting, depth and control models are not supported, use the base model"
            )
        for network in (transformer, vae, *(() if reader is None else reader.encoders)):
            network.eval().requires_grad_(False)
        self.take_autoencoder(vae)
        side = int(getattr(transformer.config, "sample_size", None) or 128) * self.vae_scale_factor
        self.sample_size = (side, side)
        self._given: dict[str, Condition] = {}

    def give_prompt(self, prompt: str, condition: Condition) -> None:
        """Sets what a prompt means, one row: for a model without text encoders, or to leave them unused."""
        if len(condition) != 1:
            raise UsageError(f"the condition of a prompt has one row, got {len(condition)}")
        self._given[prompt] = condition.each(lambda tensor: tensor.to(self.device))

    @torch.no_grad()
    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not any(text in self._given for text in texts):
            return self._read(texts)
        encoded = [self._given.get(text) or self._read([text]) for text in texts]
        if len({condition.tokens for condition in encoded}) > 1:
            encoded = Condition.equally_long(encoded, self._given.get("") or self._read([""]))
        return Condition.cat(encoded)

    def _read(self, texts: Sequence[str]) -> Condition:
        """What the text encoders make of prompts.

        Raises:
            ModelError: There are none.
        """
        if self.reader is None:
            raise ModelError(
                f"{self.name} came without its text encoders, so it cannot read {texts[0][:80]!r}: load it with them,"
                " or set what the prompt means with give_prompt"
            )
        return self.reader.encode(texts)

    @property
    def networks(self) -> tuple[object, ...]:
        return (self.transformer, self.vae, *(() if self.reader is None else self.reader.encoders))

    @property
    def size_multiple(self) -> int:
        return self.patch * self.vae_scale_factor

    @property
    def text_fingerprint(self) -> str:
        return "" if self.reader is None else self.reader.fingerprint

    def predict(self, latents: Tensor, t: float | Sequence[float], condition: Condition) -> Tensor:
        height, width = latents.shape[-2:]
        if height % self.patch or width % self.patch:
            raise UsageError(f"height and width must be multiples of {self.size_multiple} pixels for {self.name}")
        self.evaluations += len(latents)
        times = torch.tensor(t, device=self.device, dtype=torch.float32).expand(len(latents))
        with self.keeping_weights():
            output = self._velocity(latents.to(self.device, self.dtype), times, condition)
        return output.to(latents)

    @abstractmethod
    def _velocity(self, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The network's output, shaped like the latents; times are 1000 sigma, (rows,)."""

    @abstractmethod
    def _places(self, positions: int) -> tuple[slice, slice]:
        """Where image and text stand in the sequence of both."""

    def sites(self, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
        grid = (latent_size[0] // self.patch, latent_size[1] // self.patch)
        image, text = self._places(grid[0] * grid[1])
        names = list(attention_layers(self.transformer))  # modules are listed as they run
        last = max(len(names) - 1, 1)
        return tuple(
            AttentionSite(name, "self", order / last, grid, None, _ALL, _ALL, None)
            if name.endswith(".attn2")  # a second attention, of the image alone, beside the joint one
            else AttentionSite(name, "joint", order / last, grid, None, image, image, text)
            for order, name in enumerate(names)
        )

    def kernel_hook(self, hook: KernelHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        return kernel_hooked(attention_layers(self.transformer), hook, sites)

    def source_hook(self, hook: SourceHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        return source_hooked(attention_layers(self.transformer), hook, sites)

    def feature_hook(self, layer_names: Sequence[str], hook: FeatureHook) -> AbstractContextManager[None]:
        return feature_hooked(self.transformer, layer_names, hook)

    def attention_projections(self) -> dict[str, tuple[int, int]]:
        found = projections(attention_layers(self.transformer))
        return {name: (layer.in_features, layer.out_features) for name, layer in found.items()}

    def projection_hook(self, names: Collection[str], hook: ProjectionHook) -> AbstractContextManager[None]:
        return projection_hooked(attention_layers(self.transformer), names, hook)
