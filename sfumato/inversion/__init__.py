"""How to get back from an image to noise, and what else a replay needs. `INVERSIONS` holds them by name."""

from __future__ import annotations

from collections.abc import Callable

from sfumato.errors import UsageError
from sfumato.inversion.ddim import ddim_inversion
from sfumato.inversion.result import Inversion
from sfumato.registry import unknown

Invert = Callable[..., Inversion]

INVERSIONS: dict[str, Invert] = {"ddim": ddim_inversion}


def find_inversion(name: str) -> Invert:
    """The inversion of that name.

    Raises:
        UsageError: There is none; names the closest.
    """
    if name not in INVERSIONS:
        raise UsageError(unknown("inversion", name, list(INVERSIONS)))
    return INVERSIONS[name]
