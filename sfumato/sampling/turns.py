"""Runs on one model take turns.

An attention hook, a gradient switch or an adapter belongs to the whole network while it is installed. Two runs at once
would take part in each other's, so each waits until the model is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from sfumato.models.base import Model
from sfumato.watch import Watch

PATIENCE = 0.1
"""Seconds between two looks at whether the caller asked a waiting run to stop."""

_locks: WeakKeyDictionary[object, Any] = WeakKeyDictionary()
_making = Lock()


@contextmanager
def taking_turns(*models: Model, watch: Watch | None = None) -> Iterator[None]:
    """Holds the models for the length of the block, after waiting for runs of other threads.

    A run inside another of the same thread goes on at once. Models that share networks share their turn.

    Args:
        models: All models that the run uses.
        watch: Asked while waiting whether to stop.

    Raises:
        Cancelled: The watch asked to stop.
    """
    networks = {id(network): network for model in models for network in model.networks}
    with ExitStack() as held:
        for _, network in sorted(networks.items()):  # one order for all threads, so that no two wait for each other
            lock = _lock(network)
            while not lock.acquire(timeout=PATIENCE):
                if watch is not None:
                    watch.check(", before the model was free")
            held.callback(lock.release)
        yield


def _lock(network: object) -> Any:
    with _making:
        return _locks.setdefault(network, RLock())
