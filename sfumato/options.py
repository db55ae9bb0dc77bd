"""The annotation that makes a parameter of a registered function an option of its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Option:
    """What a parameter's annotation says of it: `Annotated[float, Option("share of the steps", low=0, high=1)]`.

    Attributes:
        help: One sentence in words that a user understands.
        low, high: Inclusive bounds on a number, or on every number inside a sequence or mapping; where there are none,
            numbers still have to be finite, and no larger than 1e9.
        check: Refuses a value of the right type by raising a UsageError, before anything heavy is done.
        formerly: The option's name in earlier versions, whose recipes and calls still work.
        renamed_values: Words of earlier versions, and what they are today.
    """

    help: str
    low: float | None = None
    high: float | None = None
    check: Callable[[Any], object] | None = None
    formerly: str = ""
    renamed_values: Mapping[str, str] = field(default_factory=dict)
