"""Mutual self-attention: edited branches keep their queries and use the source's keys and values.

Source: Cao et al., 2023, https://arxiv.org/abs/2304.08465, its masks included. Keys and values are exchanged before the
fused kernel, so no map is ever made; the masked form adds a bias to the scores, which equals attending twice, to the
source's inside and to its outside, and composing the two by the edited branch's own mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import BOTH, AttentionEdit
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Step

Regions = Callable[[], Tensor | None]
"""Foreground of each branch: bool, (branch, image, height, width) at any resolution; None: not known yet."""


class MutualSelfAttention(AttentionEdit):
    r"""Every branch reads the keys and values of branch 0, at the named layers and steps.

    .. math:: \text{Attention}(Q, K_s, V_s)

    Each guidance half reads its own source, and the source itself is unchanged.
    """

    guidance = BOTH

    def __init__(
        self,
        layer_names: Collection[str],
        steps: Collection[int],
        *,
        union: bool = False,
        regions: Regions | None = None,
    ) -> None:
        """Takes where and when it acts.

        Args:
            layer_names: Self-attention layers by module path.
            steps: Step indices.
            union: Read the branch's own keys and values too, in one softmax with the source's.
            regions: Let a branch's foreground read the source's foreground only, and background background; where the
                source has nothing of a kind, that kind reads everything.
        """
        self.layer_names, self.steps = frozenset(layer_names), frozenset(steps)
        self.union, self.regions = union, regions

    def selects(self, site: AttentionSite) -> bool:
        return site.kind == "self" and site.name in self.layer_names

    def active(self, step: Step) -> bool:
        return step.index in self.steps

    def edit_qkv(
        self, query: Tensor, key: Tensor, value: Tensor, site: AttentionSite, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        source_key, source_value = key[:, :1].expand_as(key), value[:, :1].expand_as(value)
        if self.union:
            return query, torch.cat([source_key, key], dim=-2), torch.cat([source_value, value], dim=-2)
        return query, source_key, source_value

    def score_bias(self, query: Tensor, key: Tensor, site: AttentionSite, step: Step) -> Tensor | None:
        regions = None if self.regions is None else self.regions()
        if regions is None:
            return None
        at_site = F.interpolate(regions.to(query), size=site.grid, mode="nearest")
        inside = at_site.flatten(2) > 0.5  # (branch, image, position)
        allowed = inside[..., None] == inside[:1, :, None]  # (branch, image, query, key)
        allowed = allowed | ~allowed.any(dim=-1, keepdim=True)
        allowed = torch.cat([torch.ones_like(allowed[:1]), allowed[1:]])  # the source reads itself as ever
        if self.union:
            allowed = torch.cat([allowed, torch.ones_like(allowed)], dim=-1)
        bias = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, -torch.inf)
        return bias[None, :, :, None]


class WordRegions:
    """Foreground by words: their cross-attention so far, scaled to [0, 1], above a threshold.

    Differs from the authors' code: maps are added up over the steps so far, not over the present step alone.
    """

    def __init__(self, maps: CrossAttentionMaps, words: Tensor, threshold: float) -> None:
        """Takes maps that the same run adds up, 1 at each branch's words, (branch, token), and a bound in [0, 1)."""
        self.maps, self.words, self.threshold = maps, words, threshold

    def __call__(self) -> Tensor | None:
        if self.maps.total is None:
            return None
        heat = torch.einsum(
            "bihwk,bk->bihw", self.maps.total[..., : self.words.shape[-1]], self.words.to(self.maps.total)
        )
        low, high = heat.amin(dim=(-2, -1), keepdim=True), heat.amax(dim=(-2, -1), keepdim=True)
        return (heat - low) / (high - low).clamp(min=1e-12) > self.threshold
