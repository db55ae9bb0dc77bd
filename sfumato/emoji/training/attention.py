"""Attention of words to their things: supervised in training, and measured.

The renderer knows where each thing is. The loss asks five things of the cross-attention of a word at 16x16: that it
lies inside the mask of its thing, that it stays out of the masks of other things, that among the words of things the
right one is strongest, that every place of a thing looks at its words, and that it looks at the word of the style, too.
Without the fourth, a word has its thing in a few spots only, and these make a poor mask. But a place is not to look at
its own words alone: then the network never reads styles and relations, so half is enough. Relations are held to the
thing before them at 8x8 as well, where the network knows on noise alone which place is where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from sfumato.emoji.training.networks import MAP_SIDE, MAP_SIDES, SMALL_SIDE

ROLES = ("name", "tint", "relation")
"""Roles of words that are supervised, in the order of the rows of shares."""
RELATION = ROLES.index("relation")
OWN_SHARE, STYLE_SHARE, RELATION_SHARE, SNOW_SHARE = 0.5, 0.1, 0.15, 0.2
"""Shares of a place's attention that its thing's own words, the style's word and the relation of its thing should have
at least; and words of snow where no thing is."""

RELATION_WEIGHT, SNOW_WEIGHT = 10.0, 3.0
"""Weights of the attention of relations and of words of snow, at any noise."""


class Recorded:
    """An attention processor that keeps the attention of image positions to words, averaged over heads.

    Attributes:
        maps: Of the last call, (batch, positions, tokens), with its gradient; None where it was no cross-attention at
            16x16 or 8x8.
    """

    def __init__(self) -> None:
        self.maps: Tensor | None = None

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """As diffusers' plain processor, for layers without norms and masks of their own."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            to(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (batch, heads, positions, channels)
            for to, states in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        probs = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        if encoder_hidden_states is not None and hidden_states.shape[1] in {side**2 for side in MAP_SIDES}:
            self.maps = probs.float().mean(1)
        out: Tensor = attn.to_out[0]((probs.to(value.dtype) @ value).transpose(1, 2).flatten(2))
        return out


def record_maps(unet: UNet2DConditionModel) -> None:
    """Gives every attention layer a `Recorded` processor; for training, where the network is ours alone."""
    unet.set_attn_processor({name: Recorded() for name in unet.attn_processors})


def recorded_maps(unet: UNet2DConditionModel, side: int = MAP_SIDES[0]) -> Tensor:
    """The maps of the last call at one resolution, averaged over layers, (batch, side * side, tokens)."""
    found = [one.maps for one in unet.attn_processors.values() if isinstance(one, Recorded) and one.maps is not None]
    return torch.stack([maps for maps in found if maps.shape[1] == side**2]).mean(0)


def word_maps(maps: Tensor, share: Tensor) -> Tensor:
    """Maps of things' words: maps (batch, positions, tokens), share (batch, roles, things, tokens) to (batch, roles,
    things, positions)."""
    return torch.einsum("bqt,brkt->brkq", maps, share)


def looking_loss(
    unet: UNet2DConditionModel, share: Tensor, masks: Tensor, *, style: Tensor, snow: Tensor, signal: Tensor
) -> Tensor:
    """All that is asked of the attention of the network's last call, a scalar.

    Args:
        unet: Has `Recorded` processors.
        share, masks, style: See `attention_loss`.
        snow: See `snow_loss`.
        signal: Share of the clean latents in the noisy ones, (batch,): in more noise, names and tints are asked less.
    """
    maps, small = recorded_maps(unet), recorded_maps(unet, SMALL_SIDE)
    looking = signal * attention_loss(maps, share, masks, style)
    related = relation_loss(maps, share, masks) + relation_loss(small, share, smaller(masks))
    snowy = snow_loss(maps, snow, masks) + snow_loss(small, snow, smaller(masks))
    return (looking + RELATION_WEIGHT * related + SNOW_WEIGHT * snowy).mean()


def smaller(masks: Tensor) -> Tensor:
    """Masks at 16x16, (batch, things, 256), at 8x8, (batch, things, 64)."""
    return F.avg_pool2d(masks.unflatten(-1, (MAP_SIDE, MAP_SIDE)), MAP_SIDE // SMALL_SIDE).flatten(2)


def attention_loss(maps: Tensor, share: Tensor, masks: Tensor, style: Tensor) -> Tensor:
    """How far names and tints look away from their things.

    Args:
        maps: (batch, positions, tokens).
        share: Which tokens are a thing's words, see `Encoder.encode`; (batch, roles, things, tokens), names first.
        masks: How much each thing covers of each position, (batch, things, positions).
        style: Which tokens name the style, 1 or 0, (batch, tokens).

    Returns:
        For each row, (batch,): of names and tints 1 - the share inside the own mask + twice the share inside the masks
        of others; of names the cross-entropy of the right one among all names, at the positions of things; and minus
        the logarithm of what the own words and the style get there, up to `OWN_SHARE` and `STYLE_SHARE`.
    """
    words = word_maps(maps, share)[:, :RELATION]
    told = share[:, :RELATION].sum(-1)  # (batch, roles, things), 1 where the word is there
    places = (told * _away(words, masks)).sum((1, 2)) / told.sum((1, 2)).clamp_min(1)
    names, seen = words[:, 0], told[:, 0, :, None]
    right = (names / names.sum(1, keepdim=True).clamp_min(1e-8)).clamp_min(1e-6).log()
    area = masks * seen
    among = -(right * area).sum((1, 2)) / area.sum((1, 2)).clamp_min(1e-6)
    own = torch.einsum("bqt,bkt->bkq", maps, (share.sum(1) > 0).to(maps))
    styled = torch.einsum("bqt,bt->bq", maps, style)[:, None]
    covering = _missing(own, OWN_SHARE, area) + style.amax(1) * _missing(styled, STYLE_SHARE, area)
    return places + 0.5 * among + 0.3 * covering


def relation_loss(maps: Tensor, share: Tensor, masks: Tensor) -> Tensor:
    """How far the words of a relation look away from the thing before them, for each row, (batch,).

    As `attention_loss`, with the same arguments: their place, and that they get `RELATION_SHARE` there. It makes sense
    on noise alone, too, which shows no places, but a relation tells them.
    """
    words, told = word_maps(maps, share)[:, RELATION], share[:, RELATION].sum(-1)
    area = masks * told[..., None]
    return (told * _away(words[:, None], masks)[:, 0]).sum(1) + 0.3 * _missing(words, RELATION_SHARE, area)


def snow_loss(maps: Tensor, snow: Tensor, masks: Tensor) -> Tensor:
    """How far the background looks away from the words of snow, for each row, (batch,).

    The text encoder could as well carry the amount of snow to all tokens after these words; then to re-weight them does
    nothing.

    Args:
        maps: (batch, positions, tokens).
        snow: Which tokens tell of snow and its amount, 1 or 0, (batch, tokens).
        masks: How much each thing covers of each position, (batch, things, positions).
    """
    seen = torch.einsum("bqt,bt->bq", maps, snow)[:, None]
    return snow.amax(1) * _missing(seen, SNOW_SHARE, (1 - masks.sum(1, keepdim=True)).clamp_min(0))


def _away(words: Tensor, masks: Tensor) -> Tensor:
    """1 - the share of maps (batch, roles, things, positions) inside the own mask + twice that inside other masks."""
    lying = words / words.sum(-1, keepdim=True).clamp_min(1e-8)
    inside = torch.einsum("brkq,bkq->brk", lying, masks)
    others = torch.einsum("brkq,bjq->brk", lying, masks) - inside
    return 1 - inside + 2 * others


def _missing(found: Tensor, least: float, area: Tensor) -> Tensor:
    """Minus the logarithm of `found` / `least`, 0 beyond 1, in the mean over an area; (batch, things, positions)."""
    short = -(found / least).clamp(1e-6, 1.0).log()
    return (short * area).sum((1, 2)) / area.sum((1, 2)).clamp_min(1e-6)


def area_under_curve(scores: Tensor, inside: Tensor) -> float:
    """Area under the ROC curve of scores (n,) for the positions inside (n,) bool; ties count half."""
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts.double() - 1) / 2)[inverse]  # equal scores share their mean rank
    positives, negatives = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def curve_areas(words: Tensor, told: Tensor, masks: Tensor) -> dict[str, list[float]]:
    """Areas under the ROC curve of word maps.

    Args:
        words: (batch, roles, things, positions).
        told: Whether the word is there, (batch, roles, things).
        masks: (batch, things, positions); a position is inside where the thing covers half of it.

    Returns:
        "own", "other" (a name against the mask of another thing), "tint" and "relation", one figure for each word.
    """
    areas: dict[str, list[float]] = {"own": [], "other": [], "tint": [], "relation": []}
    for row, role, thing in told.nonzero().tolist():
        for at in range(masks.shape[1]):
            inside = masks[row, at] > 0.5
            if not inside.any() or (role and at != thing):
                continue
            kind = ROLES[role] if role else "own" if at == thing else "other"
            areas[kind].append(area_under_curve(words[row, role, thing], inside))
    return areas


def means(areas: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """The mean of each kind over several batches."""
    kinds = {kind: [value for one in areas for value in one[kind]] for kind in areas[0]}
    return {kind: sum(values) / len(values) for kind, values in kinds.items() if values}
