"""Low-rank adapters as plain data: drawn, trained, mixed factor by factor, and switched per row of a network call.

Source: Hu et al., 2021, https://arxiv.org/abs/2106.09685. Scale 1: no alpha / rank factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.attention import ProjectionHook
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout


@dataclass(frozen=True)
class Lora:
    r"""A change of attention's linear layers: each gives W x + up(down(x)).

    Attributes:
        factors: Projection name (see `Model.attention_projections`) to (down, up), (rank, in) and (out, rank).
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def fresh(cls, model: Model, rank: int, *, generator: torch.Generator | None = None) -> Lora:
        """One that changes nothing yet: down ~ N(0, 1 / rank^2), up = 0, in float32.

        Args:
            model: What it adapts: to_q, to_k, to_v and to_out of all its attention.
            rank: At least 1; in a layer too narrow for it, the layer's own width (see `widest_rank`).
            generator: Draws `down`, layer by layer.
        """
        factors = {}
        for name, (inner, outer) in model.attention_projections().items():
            own = min(rank, inner, outer)
            down = torch.randn(own, inner, generator=generator) / own
            factors[name] = (down.to(model.device), torch.zeros(outer, own, device=model.device))
        return cls(factors)

    @property
    def rank(self) -> int:
        """The largest rank among its layers."""
        return max(len(down) for down, _ in self.factors.values())

    def tensors(self) -> dict[str, Tensor]:
        """By name, `<projection>.down` and `<projection>.up`: as files and optimisers want it."""
        pairs = self.factors.items()
        return {f"{name}.{part}": tensor for name, pair in pairs for part, tensor in zip(_PARTS, pair, strict=True)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Lora:
        """Takes what `tensors` gave."""
        names = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        return cls({name: (tensors[f"{name}.down"], tensors[f"{name}.up"]) for name in names})

    def lerp(self, other: Lora, weight: float) -> Lora:
        """(1 - weight) of this and weight of another of the same layers and ranks, factor by factor."""

        def mix(first: Tensor, second: Tensor) -> Tensor:
            return (1.0 - weight) * first + weight * second

        pairs = {name: (pair, other.factors[name]) for name, pair in self.factors.items()}
        return Lora({name: (mix(a[0], b[0]), mix(a[1], b[1])) for name, (a, b) in pairs.items()})


_PARTS = ("down", "up")


def widest_rank(model: Model) -> int:
    """The largest rank that every layer of the model allows."""
    return min(min(widths) for widths in model.attention_projections().values())


def clamped_rank(model: Model, rank: int, *, chosen: bool = False) -> tuple[int, str]:
    """The rank that is used where one is asked for, and a note where some layers are too narrow for it.

    Args:
        model: What is adapted.
        rank: The rank asked for, at least 0.
        chosen: A rule asks, not the user: no rank is too large to be clamped.

    Raises:
        UsageError: The user asks for more than any layer allows.
    """
    widths = [min(pair) for pair in model.attention_projections().values()]
    if not widths:
        raise UsageError(f"{model.name} has no attention layers that could be adapted: use rank=0")
    if rank > max(widths) and not chosen:
        raise UsageError(f"rank={rank} is more than any layer of {model.name} allows: use at most {max(widths)}")
    used = min(rank, max(widths))
    narrow = sum(width < rank for width in widths)
    if not narrow:
        return used, ""
    return used, f"rank {rank} is more than {narrow} of {len(widths)} layers allow: each of those gets its own width"


@contextmanager
def adapted(model: Model, lora: Lora | None) -> Iterator[None]:
    """The model under one adapter inside the block, all rows alike, and as found after it; None: as it is."""
    if lora is None:
        yield
        return

    def change(name: str, hidden_states: Tensor, output: Tensor) -> Tensor:
        down, up = (factor.to(output) for factor in lora.factors[name])
        return output + F.linear(F.linear(hidden_states, down), up)

    with model.projection_hook(lora.factors.keys(), change):
        yield


class RowAdapters:
    """An adapter for each row of a run's network calls; a `Control` of the sampling loop.

    Where long runs of rows share an adapter (IMPUS: one for each guidance half), each run is adapted by itself; else
    factors are stacked, and rows under an adapter of smaller rank, or under none, padded with zeros.
    """

    reads_unconditional = False

    def __init__(self, adapters: Mapping[str, Lora | Sequence[Lora | None] | None]) -> None:
        """Takes for each guidance half ("uncond", "cond") one adapter for all branches, or one a branch."""
        self.adapters = adapters

    @contextmanager
    def installed(self, model: Model, layout: Layout) -> Iterator[RowAdapters]:
        """Hooks the projections inside the block; the model is left as found, also when the block raises."""
        of_cell: dict[tuple[str, str], Lora | None] = {}
        for half in layout.guidance:
            given = self.adapters.get(half)
            of_branches = [given] * len(layout.branches) if given is None or isinstance(given, Lora) else list(given)
            assert len(of_branches) == len(layout.branches), "one adapter a branch"
            of_cell |= {(half, name): adapter for name, adapter in zip(layout.branches, of_branches, strict=True)}
        distinct = list({id(of_cell[cell]): of_cell[cell] for cell in layout.cells}.values())
        if len(distinct) == 1:
            with adapted(model, distinct[0]):
                yield self
            return

        changes: dict[tuple[tuple[str, str], ...], ProjectionHook] = {}  # by the rows of a step

        def change(name: str, hidden_states: Tensor, output: Tensor) -> Tensor:
            cells = layout.cells
            if cells not in changes:
                changes[cells] = _change(model, [of_cell[cell] for cell in cells for _ in range(layout.images)])
            return changes[cells](name, hidden_states, output)

        with model.projection_hook({name for lora in distinct if lora is not None for name in lora.factors}, change):
            yield self

    def at_step(self, step: Step) -> None:
        pass

    def acts(self, step: Step) -> bool:
        return False  # an adapter is part of the network, in whichever step its features were computed


def _change(model: Model, rows: Sequence[Lora | None]) -> ProjectionHook:
    runs = _runs(rows)
    return _by_run(runs) if 2 * len(runs) <= len(rows) else _by_row(_stacked(model, rows))


def _runs(rows: Sequence[Lora | None]) -> list[tuple[slice, Lora | None]]:
    """Neighbouring rows under one adapter taken together."""
    starts = [k for k in range(len(rows)) if k == 0 or rows[k] is not rows[k - 1]]
    return [(slice(start, stop), rows[start]) for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True)]


def _by_run(runs: Sequence[tuple[slice, Lora | None]]) -> ProjectionHook:
    def change(name: str, hidden_states: Tensor, output: Tensor) -> Tensor:
        parts = []
        for rows, lora in runs:
            pair = None if lora is None else lora.factors.get(name)
            part = output[rows]
            if pair is not None:
                part = part + F.linear(F.linear(hidden_states[rows], pair[0].to(output)), pair[1].to(output))
            parts.append(part)
        return torch.cat(parts)

    return change


def _stacked(model: Model, rows: Sequence[Lora | None]) -> dict[str, tuple[Tensor, Tensor]]:
    """Transposed factors of every row, (row, in, rank) and (row, rank, out), for each projection."""
    stacked: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (inner, outer) in model.attention_projections().items():
        pairs = [None if adapter is None else adapter.factors.get(name) for adapter in rows]
        rank = max((len(pair[0]) for pair in pairs if pair is not None), default=0)
        if rank == 0:
            continue
        down = torch.zeros(len(rows), rank, inner, device=model.device, dtype=model.dtype)
        up = torch.zeros(len(rows), outer, rank, device=model.device, dtype=model.dtype)
        for row, pair in enumerate(pairs):
            if pair is not None:
                down[row, : len(pair[0])], up[row, :, : len(pair[0])] = pair[0].to(down), pair[1].to(up)
        stacked[name] = (down.mT.contiguous(), up.mT.contiguous())
    return stacked


def _by_row(stacked: Mapping[str, tuple[Tensor, Tensor]]) -> ProjectionHook:
    def change(name: str, hidden_states: Tensor, output: Tensor) -> Tensor:
        if name not in stacked:
            return output
        down, up = stacked[name]
        return output + hidden_states @ down @ up

    return change
