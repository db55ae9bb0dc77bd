"""Keys and values of image tokens, taken from the source where image and text are one sequence."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.patch import BOTH, AttentionEdit
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Step


class SourceImageTokens(AttentionEdit):
    """Every branch reads the image keys and values of branch 0 at the named layers; those of the text stay its own.

    Text may stand before the image or behind it; layers of the image alone are taken as a whole.
    """

    guidance = BOTH

    def __init__(
        self, layer_names: Collection[str], steps: Collection[int] | None = None, *, outside: Tensor | None = None
    ) -> None:
        """Takes where and when it acts.

        Args:
            layer_names: Attention layers by module path.
            steps: Step indices; None: all.
            outside: Where the source's are read, (1, 1, height, width), above 0.5; None: everywhere.
        """
        self.layer_names = frozenset(layer_names)
        self.steps, self.outside = None if steps is None else frozenset(steps), outside

    def selects(self, site: AttentionSite) -> bool:
        return site.name in self.layer_names

    def active(self, step: Step) -> bool:
        return self.steps is None or step.index in self.steps

    def edit_qkv(
        self, query: Tensor, key: Tensor, value: Tensor, site: AttentionSite, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        return query, self._shared(key, site), self._shared(value, site)

    def _shared(self, tensor: Tensor, site: AttentionSite) -> Tensor:
        """(guidance, branch, image, heads, tokens, head_dim) with the image tokens of branch 0."""
        own = site.image_tokens(tensor)
        source = own[:, :1].expand_as(own)
        if self.outside is not None:
            places = F.adaptive_max_pool2d(self.outside.float(), site.grid).flatten() > 0.5
            source = torch.where(places[:, None].to(own.device), source, own)
        return site.with_image_tokens(tensor, source)
