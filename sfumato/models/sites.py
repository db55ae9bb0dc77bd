"""Finding the attention layers of a diffusers UNet, and where each of them sits."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from sfumato.models.base import AttentionSite, Place


def attention_layers(network: nn.Module) -> dict[str, Any]:
    """The attention layers of a network by module path."""
    return {name: module for name, module in network.named_modules() if _is_attention(module)}


def sites_of(network: Any, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
    """All attention layers of a UNet in execution order, with their resolutions at that latent size."""
    resolutions = [latent_size]
    for _ in range(len(network.config.down_block_types) - 1):
        height, width = resolutions[-1]
        resolutions.append(((height + 1) // 2, (width + 1) // 2))
    found = []
    for name, layer in attention_layers(network).items():
        place, level = _place(name, len(resolutions))
        kind = "cross" if layer.is_cross_attention else "self"
        found.append((name, kind, place, resolutions[level], layer.heads))
    execution = {"down": 0, "mid": 1, "up": 2}
    found.sort(key=lambda site: execution[site[2]])  # stable: within a place, modules are listed as they run
    return tuple(
        AttentionSite(name, kind, place, order, resolution, latent_size, heads)  # type: ignore[arg-type]
        for order, (name, kind, place, resolution, heads) in enumerate(found)
    )


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "processor") and hasattr(module, "to_q") and hasattr(module, "is_cross_attention")


def _place(layer_name: str, levels: int) -> tuple[Place, int]:
    """Where a layer sits, and how many times its grid is halved against the latents."""
    found = re.match(r"(down|up)_blocks\.(\d+)\.", layer_name)
    if found is None:
        return "mid", levels - 1
    block = int(found[2])
    return ("down", block) if found[1] == "down" else ("up", levels - 1 - block)
