"""Interpolated attention: frames use keys and values of both ends, which are branches of the same run, or recorded.

Sources: He et al., 2024 (AID), https://arxiv.org/abs/2403.17924, section 4 (inner, outer, fused); Zhang et al., 2024
(DiffMorpher), https://arxiv.org/abs/2312.07409, section 3.3 (keys and values from mixed layer inputs). No map is ever
made: all forms end in the fused kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from sfumato.attention.patch import BOTH, CONDITIONAL, Attend, AttentionEdit
from sfumato.attention.record import Recorder, RecordKey
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout

InterpolationForm = Literal["inner", "outer", "fused-inner", "fused-outer"]

START, END = "start", "end"


class BetweenEnds(AttentionEdit):
    """An edit that reads two ends: the first and the last branch, or, in a run of frames alone, what was kept of them.

    Attributes:
        weights: Of each branch, 0 for the first end, 1 for the last.
        steps: It acts while step_index < steps.
        kept: Filled by a run whose first and last branch are called "start" and "end", read by any other; None: the
            first and last branch are the ends.
    """

    def __init__(self, weights: Sequence[float], steps: int, kept: Recorder | None = None) -> None:
        self.weights, self.steps, self.kept = torch.tensor(weights), steps, kept
        self._layout: Layout | None = None

    def begin(self, layout: Layout, sites: Sequence[AttentionSite]) -> None:
        assert len(self.weights) == len(layout.branches), "one weight a branch"
        self._layout = layout

    def active(self, step: Step) -> bool:
        return step.index < self.steps

    def ends(self, name: str, tensor: Tensor, site: AttentionSite, step: Step) -> tuple[Tensor, Tensor]:
        """What a tensor (guidance, branch, image, ...) is at both ends, each (guidance, 1, image, ...)."""
        assert self._layout is not None, "the edit must be installed"
        layer = f"{site.name}.{name}"
        halves = [half for half in self._layout.guidance if half in self.guidance]
        inside = (self._layout.branches[0], self._layout.branches[-1]) == (START, END)
        if self.kept is not None and not inside:
            first, last = (
                torch.stack(
                    [self.kept.get(step.index, layer, RecordKey(half, end), device=tensor.device) for half in halves]
                )
                for end in (START, END)
            )
            return first[:, None], last[:, None]
        if self.kept is not None:
            for half, of_half in zip(halves, tensor, strict=True):
                self.kept.put(step.index, layer, RecordKey(half, START), of_half[0].clone())
                self.kept.put(step.index, layer, RecordKey(half, END), of_half[-1].clone())
        return tensor[:, :1], tensor[:, -1:]

    def mixed(self, first: Tensor, last: Tensor) -> Tensor:
        """(1 - w_i) first + w_i last for each branch i, (guidance, branch, ...)."""
        shape = (len(first), len(self.weights), *first.shape[2:])
        weights = self.weights.to(first).view(1, -1, *[1] * (first.ndim - 2))
        return torch.lerp(first.expand(shape), last.expand(shape), weights)


class InterpolatedAttention(BetweenEnds):
    r"""Every branch i attends to the keys and values of both ends (s, e), at its weight c_i.

    .. math:: \text{inner: } & A(Q_i, (1 - c_i) K_s + c_i K_e, (1 - c_i) V_s + c_i V_e) \\
              \text{outer: } & (1 - c_i) A(Q_i, K_s, V_s) + c_i A(Q_i, K_e, V_e)

    Fused, the branch's own keys and values stand before the others along the tokens, so a branch at c = 0 or 1 that
    equals an end comes out as in ordinary attention.

    Reference: He et al., 2024, https://arxiv.org/abs/2403.17924; inner lets two things blend, outer lets them stand
    side by side (appendix A).
    """

    mixes_outputs = True

    def __init__(
        self,
        kind: InterpolationForm,
        weights: Sequence[float],
        steps: int,
        *,
        guidance: tuple[str, ...] = CONDITIONAL,
        kept: Recorder | None = None,
    ) -> None:
        """Takes the form of it, and see `BetweenEnds`; it acts at all attention.

        Where image and text are one sequence, keys and values of image tokens are interpolated, and those of the text
        stay the branch's own.
        """
        super().__init__(weights, steps, kept)
        self.kind, self.guidance, self.fused = kind, guidance, kind.startswith("fused")

    def selects(self, site: AttentionSite) -> bool:
        return True

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, site: AttentionSite, step: Step
    ) -> Tensor:
        joint = site.kind == "joint"
        own_keys, own_values = (site.image_tokens(key), site.image_tokens(value)) if joint else (key, value)
        keys, values = self.ends("key", own_keys, site, step), self.ends("value", own_values, site, step)

        def read(keys: Tensor, values: Tensor) -> Tensor:
            if joint:
                keys, values = site.with_image_tokens(key, keys), site.with_image_tokens(value, values)
            if self.fused:
                return attend(query, torch.cat([key, keys], dim=-2), torch.cat([value, values], dim=-2))
            return attend(query, keys, values)

        if self.kind.endswith("inner"):
            return read(self.mixed(*keys), self.mixed(*values))
        first, last = (read(k.expand_as(own_keys), v.expand_as(own_values)) for k, v in zip(keys, values, strict=True))
        return self.mixed(first, last)


class InterpolatedSource(BetweenEnds):
    r"""Keys and values of every branch come from a mixture of the layer inputs h of both ends (s, e).

    .. math:: h'_i = \beta h_i + (1 - \beta) ((1 - w_i) h_s + w_i h_e), \qquad A(W_q h_i, W_k h'_i, W_v h'_i)

    The branch projects it by itself, under its own adapter if it has one; without adapters this is interpolation of the
    keys and values, since projections are linear.

    Reference: Zhang et al., 2024, https://arxiv.org/abs/2312.07409, section 3.3.
    """

    sets_source = True
    guidance = BOTH

    def __init__(
        self,
        layer_names: Collection[str],
        weights: Sequence[float],
        steps: int,
        *,
        own_share: float = 0.0,
        kept: Recorder | None = None,
    ) -> None:
        """Takes self-attention layers by module path, beta in [0, 1] as `own_share`, and see `BetweenEnds`."""
        super().__init__(weights, steps, kept)
        self.layer_names, self.own_share = frozenset(layer_names), own_share

    def selects(self, site: AttentionSite) -> bool:
        return site.kind == "self" and site.name in self.layer_names

    def edit_source(self, hidden_states: Tensor, site: AttentionSite, step: Step) -> Tensor:
        mixed = self.mixed(*self.ends("input", hidden_states, site, step))
        return mixed if self.own_share == 0.0 else torch.lerp(mixed, hidden_states, self.own_share)
