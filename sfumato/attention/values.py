"""Values of attention kept from one network call and put into another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from sfumato.models.attention import AttentionSite, KernelCall


class ValueSharing:
    """A hook of the attention kernel: inside `keeping` it keeps values, inside `putting` it puts them in again.

    The rows of the two calls need not be as many: each later row gets the values of its image.
    """

    def __init__(self, names: Collection[str]) -> None:
        """Takes the names of the layers."""
        self.names = frozenset(names)
        self.call = ""
        """Which call of a step it is: values are put into the call of the same name."""
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._mode = ""

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """What was kept before is forgotten."""
        self._kept, self._mode = {}, "keep"
        try:
            yield
        finally:
            self._mode = ""

    @contextmanager
    def putting(self) -> Iterator[None]:
        self._mode = "put"
        try:
            yield
        finally:
            self._mode, self._kept = "", {}

    def wants(self, site: AttentionSite) -> bool:
        return site.name in self.names and (self._mode == "keep" or (self.call, site.name) in self._kept)

    def attend(self, call: KernelCall) -> Tensor:
        place = self.call, call.site.name
        if self._mode == "keep":
            self._kept[place] = call.value
        else:
            kept = self._kept[place]
            call = replace(call, value=kept.repeat(len(call.value) // len(kept), 1, 1, 1))
        return F.scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=call.mask, scale=call.scale)
