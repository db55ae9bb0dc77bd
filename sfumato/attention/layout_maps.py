"""The layout map of an attention layer: which image position looks at which token.

Where text is all that a layer looks at, this is its softmax map. Where image and text are one sequence it is a part of
it, and the rest is left to the fused kernel: the memory is that of image positions times tokens, at the price of a
second kernel call. All tensors have the axes (guidance, branch, image, heads, token, ...).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.models.attention import AttentionSite


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The fused kernel's output."""
    flat_mask = None if mask is None else mask.flatten(0, 2)
    output = F.scaled_dot_product_attention(
        query.flatten(0, 2), key.flatten(0, 2), value.flatten(0, 2), attn_mask=flat_mask, scale=scale
    )
    split: Tensor = output.unflatten(0, query.shape[:3])
    return split


def layout_map(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, site: AttentionSite) -> Tensor:
    """Which image position looks at which token, (..., image position, token): softmax over all keys."""
    if site.image_keys is None:
        return _softmax_map(query, key, mask, scale)
    # softmax over the text alone, times the text's share, which the kernel gives as the attention to ones there
    assert site.text_keys is not None, f"{site.name} looks at no text"
    query, text = query[..., site.image_queries, :], key[..., site.text_keys, :]
    at_text = torch.zeros_like(key)
    at_text[..., site.text_keys, :] = 1.0
    if mask is not None:
        mask = mask.expand(*mask.shape[:-2], -1, key.shape[-2])
        mask = mask if mask.shape[-2] == 1 else mask[..., site.image_queries, :]
    share = attended(query, key, at_text, mask, scale)[..., :1]
    return _softmax_map(query, text, None if mask is None else mask[..., site.text_keys], scale) * share


def _softmax_map(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = (query * scale) @ key.transpose(-1, -2)
    scores = scores if mask is None else scores + mask
    if scores.requires_grad or scores.device.type != "cpu":
        return scores.softmax(dim=-1)
    # in place: of tensors as large as these, two at a time would be asked from the system anew at each layer
    probs: Tensor = torch.softmax(scores, dim=-1, out=scores)
    return probs


def with_layout_map(
    before: Tensor, maps: Tensor, given: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, scale: float,
    site: AttentionSite,
) -> Tensor:  # fmt: skip
    """The output of a layer with other layout maps than its own."""
    value = given[2]
    if site.image_keys is None:
        return maps.to(value.dtype) @ value
    output = attended(*given, mask, scale)
    if maps is before:
        return output
    assert site.text_keys is not None, f"{site.name} looks at no text"
    change = (maps - before).to(value.dtype) @ value[..., site.text_keys, :]
    return site.with_image_tokens(output, site.image_tokens(output) + change)
