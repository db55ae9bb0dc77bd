"""A model's attention layers: where they are, what passes through them, and how to replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

SiteKind = Literal["self", "cross", "joint"]
Stage = Literal["down", "mid", "up"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer of the network, at the latent size of a run.

    Attributes:
        name: Module path.
        kind: "self" (image alone), "cross" (image to text) or "joint" (image and text as one sequence).
        depth: Where it runs, from 0 (first) to 1 (last), all kinds counted together.
        grid: (height, width) of its image positions.
        stage: Part of a network that halves and doubles its grid; None for a network of one grid.
        image_queries: Where the image's positions stand among the queries.
        image_keys: Where they stand among the keys; None: no keys are the image's.
        text_keys: Where the text's positions stand among the keys; None: no keys are the text's.
    """

    name: str
    kind: SiteKind
    depth: float
    grid: tuple[int, int]
    stage: Stage | None
    image_queries: slice
    image_keys: slice | None
    text_keys: slice | None

    @property
    def positions(self) -> int:
        """Image positions among the queries."""
        return self.grid[0] * self.grid[1]

    def image_tokens(self, tensor: Tensor) -> Tensor:
        """Of what has the axes (..., token, dim), queries, keys, values or outputs, the image's part."""
        assert self.image_keys is not None, f"{self.name} has no keys of the image"
        return tensor[..., self.image_keys, :]

    def with_image_tokens(self, tensor: Tensor, image: Tensor) -> Tensor:
        """The same with another part of the image."""
        assert self.image_keys is not None, f"{self.name} has no keys of the image"
        first, end, _ = self.image_keys.indices(tensor.shape[-2])
        return torch.cat([tensor[..., :first, :], image, tensor[..., end:, :]], dim=-2)


@dataclass(frozen=True)
class DecoderBlock:
    """One residual block of a decoder, with the attention that follows it.

    Attributes:
        stage: Its stage, 0 for the first that runs.
        residual: Module path of the last layer of its residual branch, before the shortcut is added.
        attention: Names of its self-attention sites, in execution order.
    """

    stage: int
    residual: str
    attention: tuple[str, ...]


@dataclass(frozen=True)
class KernelCall:
    """One call of the fused attention kernel on its way through a hook.

    Attributes:
        site: Where.
        query, key, value: (rows, heads, tokens, head_dim), after norms and rotary embedding.
        mask: Added to the scores before softmax, broadcastable to (rows, heads, query, key), or None.
        scale: Factor on the scores.
    """

    site: AttentionSite
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float

    def rows(self, rows: slice) -> KernelCall:
        """The same call for some of its rows."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows]
        return replace(self, query=self.query[rows], key=self.key[rows], value=self.value[rows], mask=mask)


class KernelHook(Protocol):
    """Takes over calls of the attention kernel while it is installed."""

    def wants(self, site: AttentionSite) -> bool:
        """Whether this layer's call goes through `attend`; if not, the layer runs as if unhooked."""

    def attend(self, call: KernelCall) -> Tensor:
        """What the kernel would give, softmax(scale q k + mask) v, (rows, heads, query tokens, head_dim)."""


SourceHook = Callable[[AttentionSite, Tensor], Tensor]
"""From what a layer's keys and values are projected from, (rows, tokens, dim), to what stands in its place."""

FeatureHook = Callable[[str, Tensor], Tensor]
"""From a layer's name and output, (rows, channels, height, width), to what goes on in its place."""

ProjectionHook = Callable[[str, Tensor, Tensor], Tensor]
"""From a linear layer's name, its input (rows, tokens, in) and output (rows, tokens, out), to what goes on."""


def sites_of_kind(sites: Sequence[AttentionSite], kind: SiteKind) -> Iterator[AttentionSite]:
    """The sites of one kind, in execution order."""
    return (site for site in sites if site.kind == kind)
