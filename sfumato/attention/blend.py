"""Local blend: the edit is limited to where attention to the named words is high.

Source: Hertz et al., 2022, https://arxiv.org/abs/2208.01626, section 3.2 ("local editing"); the start step and the
subtracted words come from the null-text notebook of the same repository.

Differs from the authors' code: any number of edited prompts and any latent size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.errors import UsageError
from sfumato.models.schedules import Step

Threshold = float | tuple[float, float]
"""One share of the largest attention, or a pair: that of the pooled maps, and that of the subtracted ones."""


class LocalBlend:
    r"""After a step, keeps the source's latents outside the mask: x* <- x + m (x* - x).

    m is the union, over the source and the edited branch, of `normalised map > threshold`: the maps summed over the
    steps so far and over the word's tokens, 3 x 3 max-pooled, each branch divided by its own maximum. With subtracted
    words, m loses where their map, without pooling, exceeds its own threshold.

    Attributes:
        mask: The last mask, (edit, image, height, width) at latent size, or None before the start.
    """

    def __init__(
        self,
        maps: CrossAttentionMaps,
        words: Tensor,
        *,
        threshold: Threshold = 0.3,
        subtract: Tensor | None = None,
        start_index: int = 0,
    ) -> None:
        """Takes maps that the same run adds up.

        Args:
            maps: Installed in the run after its edits.
            words: 1 at the tokens of each branch's words, (branch, token).
            threshold: In [0, 1], one for both kinds of map, or (with pooling, without): that of `words`, then that of
                `subtract`.
            subtract: Like `words`, or None.
            start_index: First step that blends.

        Raises:
            UsageError: A threshold is outside [0, 1], or there are not one or two.
        """
        self.maps, self.words, self.subtract, self.start_index = maps, words, subtract, start_index
        self.pooled_threshold, self.plain_threshold = threshold_pair(threshold)
        self.mask: Tensor | None = None

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        if step.index < self.start_index:
            return latents
        size = (latents.shape[-2], latents.shape[-1])
        mask = self._mask(self.words, self.pooled_threshold, pool=True, size=size)
        if self.subtract is not None:
            mask = mask & ~self._mask(self.subtract, self.plain_threshold, pool=False, size=size)
        self.mask = mask[:, :, 0]
        source = latents[:1]
        edited = source + self.mask[:, :, None].to(latents) * (latents[1:] - source)
        return torch.cat([source, edited])

    def _mask(self, words: Tensor, threshold: float, *, pool: bool, size: tuple[int, int]) -> Tensor:
        """Where each edited branch may differ, (edit, image, 1, height, width) at latent size."""
        assert self.maps.total is not None, "the maps must be installed in the same run"
        tokens = words.shape[-1]
        heat = torch.einsum("bihwk,bk->bihw", self.maps.total[..., :tokens], words.to(self.maps.total))
        if pool:
            heat = F.max_pool2d(heat, kernel_size=3, stride=1, padding=1)
        heat = F.interpolate(heat, size=size, mode="nearest")
        inside = heat > threshold * heat.amax(dim=(-2, -1), keepdim=True)
        return (inside[:1] | inside[1:])[:, :, None]


def threshold_pair(threshold: Threshold) -> tuple[float, float]:
    """Thresholds of the pooled and of the plain maps; one number is both.

    Raises:
        UsageError: One is outside [0, 1], or there are not one or two.
    """
    pair = [threshold] * 2 if isinstance(threshold, int | float) else list(threshold)
    if len(pair) != 2 or not all(0.0 <= share <= 1.0 for share in pair):
        raise UsageError(
            "a blend threshold must be a share in [0, 1], or two, of blend_words and of the subtracted words; got"
            f" {threshold}"
        )
    return float(pair[0]), float(pair[1])
