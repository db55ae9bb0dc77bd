"""Low-rank adapters of an autoencoder, and skips from its encoder to its decoder, which carry what latents lose.

As pix2pix-turbo has them (Parmar et al., 2024, https://arxiv.org/abs/2403.12036): each stage of the decoder is given
what the encoder's stage of that resolution saw, through a 1x1 convolution that begins almost at zero.

Differs from the authors' code: every convolution is adapted, and nothing of the autoencoder itself is changed: hooks
are there while it encodes or decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import ModelError
from sfumato.models.autoencoder import LatentModel

FIRST_SKIP = 1e-5
"""What the weights of a skip begin at."""


class AdaptedAutoencoder(nn.Module):
    """Adapters and skips of a model's autoencoder; see the module. Its state holds these alone.

    Args:
        model: Whose autoencoder it is.
        rank: Of the adapters, at least 1.
        generator: Draws them.

    Raises:
        ModelError: The autoencoder has no stages of an encoder and a decoder.
    """

    def __init__(self, model: LatentModel, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self._model = model
        parts: dict[str, Any] = {name: getattr(model.vae, name, None) for name in ("encoder", "decoder")}
        self._stages = [
            list(getattr(parts["encoder"], "down_blocks", ())),
            list(getattr(parts["decoder"], "up_blocks", ())),
        ]
        if not self._stages[0] or len(self._stages[0]) != len(self._stages[1]):
            raise ModelError(f"the autoencoder of {model.name} has no stages that could be joined: use a small student")
        self._layers = {
            f"{part}.{name}".replace(".", "/"): layer
            for part, network in parts.items()
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Conv2d)
        }
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, layer in self._layers.items():
            inner, (height, width) = layer.in_channels // layer.groups, layer.kernel_size
            drawn = torch.randn(rank, inner, height, width, generator=generator) / (inner * height * width) ** 0.5
            self.down[name] = nn.Parameter(drawn)
            self.up[name] = nn.Parameter(torch.zeros(layer.out_channels, rank))
        widths = [[int(stage.resnets[0].in_channels) for stage in stages] for stages in self._stages]
        with torch.random.fork_rng(devices=[]):  # their weights are drawn before they are set
            self.skips = nn.ModuleList(
                nn.Conv2d(inner, outer, 1, bias=False)
                for inner, outer in zip(reversed(widths[0]), widths[1], strict=True)
            )
        for skip in self.skips.parameters():
            nn.init.constant_(skip, FIRST_SKIP)

    def encode(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scaled latents of pixels in [-1, 1], and what each stage of the encoder was given. Differentiable."""
        seen: list[Tensor] = []

        def collect(module: nn.Module, inputs: Any) -> None:
            seen.append(inputs[0])

        with self._adapted("encoder"), ExitStack() as stack:
            for stage in self._stages[0]:
                stack.callback(stage.register_forward_pre_hook(collect).remove)
            latents = self._model.encode_pixels(pixels)
        return latents, seen

    def decode(self, latents: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """Pixels of scaled latents, with what the encoder saw. Differentiable."""
        with self._adapted("decoder"), ExitStack() as stack:
            for stage, skip, before in zip(self._stages[1], self.skips, reversed(seen), strict=True):

                def add(module: nn.Module, inputs: Any, skip: Any = skip, before: Tensor = before) -> Any:
                    return (inputs[0] + skip(before.to(skip.weight)).to(inputs[0]), *inputs[1:])

                stack.callback(stage.register_forward_pre_hook(add).remove)
            return self._model.decode_latents(latents)

    @contextmanager
    def _adapted(self, part: str) -> Iterator[None]:
        """The convolutions of one part under their adapters inside the block, as found after it."""
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                if name.startswith(f"{part}/"):
                    stack.callback(layer.register_forward_hook(self._change(name)).remove)
            yield

    def _change(self, name: str) -> Any:
        def change(layer: nn.Conv2d, inputs: Any, output: Tensor) -> Tensor:
            down, up = self.down[name], self.up[name]
            narrow = F.conv2d(inputs[0].to(down), down, None, layer.stride, layer.padding, layer.dilation, 1)
            return output + F.conv2d(narrow, up[:, :, None, None]).to(output)

        return change
