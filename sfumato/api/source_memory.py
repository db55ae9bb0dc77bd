"""What edits start from, kept for the next edits of the same image: its latents and its inversion."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

Kept = TypeVar("Kept")


class SourceMemory(Generic[Kept]):
    """The last few sources by what they were made of. The numbers of an edit are those of an edit by itself.

    Making a source may draw noise, and an edit goes on with the same generator: the generator's state after the source
    was made is kept, too.
    """

    def __init__(self, most: int = 4) -> None:
        """Keeps at most so many sources."""
        self._most = most
        self._sources: OrderedDict[Hashable, tuple[Kept, torch.Tensor]] = OrderedDict()

    def recall(self, key: Hashable, generator: torch.Generator, make: Callable[[], Kept]) -> Kept:
        """The source of this key, made if it is not known; the generator is then where making it leaves it.

        Args:
            key: All that it is made of, the generator's seed among it.
            generator: Freshly seeded; `make` draws from it.
            make: Makes it.
        """
        if key in self._sources:
            self._sources.move_to_end(key)
            source, state = self._sources[key]
            generator.set_state(state)
            return source
        source = make()
        self._sources[key] = source, generator.get_state()
        if len(self._sources) > self._most:
            self._sources.popitem(last=False)
        return source
