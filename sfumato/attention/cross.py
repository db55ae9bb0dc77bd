"""Edits of the cross-attention map: word swap, refinement, re-weighting, and the schedule they share.

Source: Hertz et al., 2022, https://arxiv.org/abs/2208.01626, section 3.2. In the unified form of our docstrings M is
the source branch's map, M* the edited branch's own; branch 0 is the source, all others are edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.patch import Attend, AttentionEdit, MakeMap
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout


class MapEdit(Protocol):
    """Makes the maps of the edited branches, (edit, image, heads, query, key), before the schedule mixes them.

    Linear in both maps and alike at every query; a column of the branches' own maps goes into the same column alone. So
    it can be carried over to the values.
    """

    def __call__(self, source: Tensor, own: Tensor) -> Tensor:
        """From the source's map, (1, image, heads, query, key), and the edited branches' own."""


@dataclass(frozen=True)
class Replace:
    """Word swap: M A, with A of `align.replace_mapper`, (edit, source token, target token)."""

    mapper: Tensor

    def __call__(self, source: Tensor, own: Tensor) -> Tensor:
        return source @ self.mapper.to(source)[:, None, None]


@dataclass(frozen=True)
class Refine:
    """Refinement: M[:, a(j)] where target token j has a source token a(j), else M*[:, j]; from `align.refine_mapper`.

    Attributes:
        mapper: a(j), (edit, token), -1 where new.
        aligned: 1 where not new, (edit, token).
    """

    mapper: Tensor
    aligned: Tensor

    def __call__(self, source: Tensor, own: Tensor) -> Tensor:
        index = self.mapper.clamp(min=0).to(source.device)
        taken = torch.cat([source[..., columns] for columns in index])  # (edit, image, heads, query, key)
        return torch.where(self.aligned.to(source.device)[:, None, None, None] > 0, taken, own)


@dataclass(frozen=True)
class OneEach:
    """An edit of its own for each edited branch."""

    edits: tuple[MapEdit, ...]

    def __call__(self, source: Tensor, own: Tensor) -> Tensor:
        return torch.cat([edit(source, own[[k]]) for k, edit in enumerate(self.edits)])


@dataclass(frozen=True)
class Reweight:
    """Re-weighting: factor c_j on column j of the source's map, or of what another edit makes; rows are not
    re-normalised.

    Attributes:
        factors: c, (edit, token).
        inner: The edit that comes first, or None.
    """

    factors: Tensor
    inner: MapEdit | None = None

    def __call__(self, source: Tensor, own: Tensor) -> Tensor:
        maps = source if self.inner is None else self.inner(source, own)
        return maps * self.factors.to(source)[:, None, None, None]


class CrossAttentionEdit(AttentionEdit):
    """alpha M_new + (1 - alpha) M* in the edited branches, wherever the image looks at text, conditional rows only.

    Where image and text are one sequence, M is the part of its map that is of image positions and tokens. The rest of
    a row stays the branch's own, and rows are not re-normalised.

    Where the image looks at text alone, the edited map is not made: with M_new = M S + M* diag(o) a branch's output is
    that of the fused kernel for the source's queries and keys with the values S v, and for its own with o v. Where the
    mean over heads is looked at, maps are made instead, and their means are edited.
    """

    needs_map = True

    def __init__(self, edit: MapEdit, alpha: Tensor) -> None:
        """Takes the edit and its weight at each step, (steps or more, edit, token), see `align.replace_schedule`."""
        self.edit, self.alpha = edit, alpha
        self._any = [bool(row.any()) for row in alpha]
        self._all = [bool((row == 1.0).all()) for row in alpha]
        self._alpha, self._whole = alpha[0], self._all[0]  # of the present step
        edits, tokens = alpha.shape[1:]
        each = torch.eye(tokens)[None, None, None]
        self._from_source = edit(each, each.new_zeros(edits, 1, 1, tokens, tokens)).expand(edits, 1, 1, tokens, tokens)
        self._from_own = edit(0 * each[..., :1, :], each.new_ones(edits, 1, 1, 1, tokens)).expand(
            edits, 1, 1, 1, tokens
        )
        self._keeps_own = bool(self._from_own.any())

    def selects(self, site: AttentionSite) -> bool:
        return site.text_keys is not None

    def active(self, step: Step) -> bool:
        return self._any[step.index]

    def at_step(self, step: Step) -> None:
        self._alpha, self._whole = self.alpha[step.index], self._all[step.index]

    def without_map(self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, site: AttentionSite) -> Tensor:
        taken, kept = self._values(value)
        edits, source = taken.shape[1], slice(0, 1)
        queries, keys, values = [query[:, source]] * (1 + edits), [key[:, source]] * (1 + edits), [value[:, source]]
        if kept is None:
            return attend(torch.cat(queries, dim=1), torch.cat(keys, dim=1), torch.cat([*values, taken], dim=1))
        queries, keys, values = [*queries, query[:, 1:]], [*keys, key[:, 1:]], [*values, taken, kept]
        output = attend(torch.cat(queries, dim=1), torch.cat(keys, dim=1), torch.cat(values, dim=1))
        return torch.cat([output[:, source], output[:, 1 : 1 + edits] + output[:, 1 + edits :]], dim=1)

    def with_mean_map(
        self, query: Tensor, key: Tensor, value: Tensor, make: MakeMap, site: AttentionSite, step: Step
    ) -> tuple[Tensor, Tensor]:
        taken, kept = self._values(value)
        source = make(query[:, :1], key[:, :1])
        wanted = torch.cat([value[:, :1], taken], dim=1)  # all by the source's map, side by side along head_dim
        beside = source[:, 0] @ wanted.movedim(1, -2).flatten(-2)
        output = beside.unflatten(-1, (-1, value.shape[-1])).movedim(-2, 1)
        mean = source.mean(dim=3, keepdim=True)
        if kept is None:  # the edited map has nothing of the branch's own, which is not made
            own_mean = torch.zeros_like(mean).expand(-1, taken.shape[1], *mean.shape[2:])
        else:
            own = make(query[:, 1:], key[:, 1:])
            own_mean = own.mean(dim=3, keepdim=True)
            output = torch.cat([output[:, :1], output[:, 1:] + own @ kept], dim=1)
        return output, self.edit_maps(torch.cat([mean, own_mean], dim=1), site, step)

    def _values(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the source's map and the branches' own are applied to in the edited branches, shaped like their values.

        None in place of the second where nothing of their own map is left.
        """
        tokens = self.alpha.shape[-1]
        alpha = self._alpha.to(value)[:, None, None, None]  # (edit, image, heads, query, token)
        edited, later = value[:, 1:, ..., :tokens, :], value[:, 1:, ..., tokens:, :]
        taken = F.pad((self._from_source.to(value) * alpha) @ edited, (0, 0, 0, later.shape[-2]))
        if self._whole and not self._keeps_own and later.shape[-2] == 0:
            return taken, None
        kept = (self._from_own.to(value) * alpha + (1 - alpha)).transpose(-1, -2) * edited
        return taken, torch.cat([kept, later], dim=-2)

    def edit_maps(self, maps: Tensor, site: AttentionSite, step: Step) -> Tensor:
        maps = maps[0]
        tokens = self.alpha.shape[-1]  # later chunks of a long prompt stay as they are
        first, later = maps[..., :tokens], maps[..., tokens:]
        source, own = first[:1], first[1:]
        edited = self.edit(source, own)
        if not self._whole:
            edited = torch.lerp(own, edited, self._alpha.to(own)[:, None, None, None].expand_as(own))
        maps = torch.cat([source, edited])
        if later.shape[-1]:
            maps = torch.cat([maps, later], dim=-1)
        return maps[None]


class CrossAttentionMaps(AttentionEdit):
    """Adds up the conditional layout maps of one grid, as they are after the edits before it.

    The grid is a quarter of the latents', as the authors' at 512 px, where the model has such a map and it is at least
    16 x 16; else whatever comes closest to 16 x 16. Only the mean over heads and layers is kept: a few hundred KB,
    where the authors' code keeps every map of the network.

    Attributes:
        total: Sum over steps and layers of the mean over heads, (branch, image, height, width, token), or None before.
        count: Network calls added up (steps x layers), a tensor without axes.
        observes: False where later steps go by the maps.
    """

    needs_map = True
    sees_mean = True
    observes = True

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = torch.zeros((), dtype=torch.long)
        self._grid: tuple[int, int] | None = None

    def begin(self, layout: Layout, sites: Sequence[AttentionSite]) -> None:
        self.total, self.count = None, torch.zeros((), dtype=torch.long)
        height, width = layout.latent_size
        grids = [site.grid for site in sites if site.text_keys is not None]
        quarter = [grid for grid in grids if grid == (-(-height // 4), -(-width // 4)) and grid[0] * grid[1] >= 256]
        chosen = quarter or sorted(grids, key=lambda grid: abs(grid[0] * grid[1] - 256))
        self._grid = chosen[0] if chosen else None

    def selects(self, site: AttentionSite) -> bool:
        return site.text_keys is not None and site.grid == self._grid

    def edit_maps(self, maps: Tensor, site: AttentionSite, step: Step) -> Tensor:
        mean = maps[0].detach().mean(dim=2).unflatten(2, site.grid)  # (branch, image, height, width, token)
        self.total = mean if self.total is None else self.total + mean
        self.count = self.count + 1  # a number would have a compiled network compiled anew at each step
        return maps

    @property
    def average(self) -> Tensor:
        """Mean map so far, (branch, image, height, width, token)."""
        assert self.total is not None, "no step was taken yet"
        return self.total / self.count
