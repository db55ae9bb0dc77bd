"""Finding the attention layers of a diffusers network, and where each layer of a UNet sits."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from sfumato.models.attention import AttentionSite, DecoderBlock, Stage

_ALL = slice(None)
_EXECUTION = ("down", "mid", "up")


def attention_layers(network: nn.Module) -> dict[str, Any]:
    """The attention layers of a network by module path."""
    return {name: module for name, module in network.named_modules() if _is_attention(module)}


def sites_of(network: Any, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
    """All attention layers of a UNet in execution order, with their grids at that latent size."""
    grids = [latent_size]
    for _ in range(len(network.config.down_block_types) - 1):
        height, width = grids[-1]
        grids.append(((height + 1) // 2, (width + 1) // 2))
    layers = [(*_place(name, len(grids)), name, layer) for name, layer in attention_layers(network).items()]
    layers.sort(key=lambda entry: _EXECUTION.index(entry[0]))  # stable: within a stage, modules are listed as they run
    last = max(len(layers) - 1, 1)
    return tuple(
        AttentionSite(name, "cross", order / last, grids[level], stage, _ALL, None, _ALL)
        if layer.is_cross_attention
        else AttentionSite(name, "self", order / last, grids[level], stage, _ALL, _ALL, None)
        for order, (stage, level, name, layer) in enumerate(layers)
    )


def decoder_blocks_of(network: Any) -> tuple[DecoderBlock, ...]:
    """The residual blocks of a UNet's decoder in execution order."""
    layers = [name for name, layer in attention_layers(network).items() if not layer.is_cross_attention]
    return tuple(
        DecoderBlock(
            stage,
            f"up_blocks.{stage}.resnets.{block}.conv2",
            tuple(name for name in layers if name.startswith(f"up_blocks.{stage}.attentions.{block}.")),
        )
        for stage, part in enumerate(network.up_blocks)
        for block in range(len(part.resnets))
    )


def _is_attention(module: nn.Module) -> bool:
    # asked of every module at each run: what has no such part is passed by before `hasattr` raises inside of it
    return "to_q" in module._modules and hasattr(module, "processor")


def _place(layer_name: str, levels: int) -> tuple[Stage, int]:
    """The stage of a layer, and how many times its grid is halved against the latents."""
    path = re.match(r"(down|up)_blocks\.(\d+)\.", layer_name)
    if path is None:
        return "mid", levels - 1
    block = int(path[2])
    return ("down", block) if path[1] == "down" else ("up", levels - 1 - block)
