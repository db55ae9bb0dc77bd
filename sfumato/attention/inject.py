"""Attention of one branch used in others: queries and keys exchanged before the fused kernel, so no map is ever made.

softmax(q_s k_s) v_t is the source's map applied to the target's values. Prompt-to-Prompt's self-attention injection and
Plug-and-Play's are this, at other sites and guidance rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.attention.patch import CONDITIONAL, AttentionEdit
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Step


class InjectSelfAttention(AttentionEdit):
    """All branches use the self-attention map of branch 0 at the chosen sites, for steps start <= index < end.

    Where image and text are one sequence, they use its queries and keys of the image: then the scores of image to image
    are those of branch 0 (Shin et al., 2025, "Exploring multimodal diffusion transformers for enhanced prompt-based
    image editing").
    """

    def __init__(
        self,
        where: Callable[[AttentionSite], bool],
        start: int,
        end: int,
        *,
        guidance: tuple[str, ...] = CONDITIONAL,
    ) -> None:
        self.where, self.start, self.end, self.guidance = where, start, end, guidance

    def selects(self, site: AttentionSite) -> bool:
        return site.image_keys is not None and self.where(site)

    def active(self, step: Step) -> bool:
        return self.start <= step.index < self.end

    def edit_qkv(
        self, query: Tensor, key: Tensor, value: Tensor, site: AttentionSite, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _first_branch(query, site), _first_branch(key, site), value


def _first_branch(tensor: Tensor, site: AttentionSite) -> Tensor:
    """The image of branch 0 in place of that of all branches; axes (guidance, branch, ..., token, dim)."""
    if site.text_keys is None:
        return torch.cat([tensor[:, :1]] * tensor.shape[1], dim=1)
    image = site.image_tokens(tensor)
    return site.with_image_tokens(tensor, image[:, :1].expand_as(image))
