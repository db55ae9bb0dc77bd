"""The embedded model, loaded once for all benchmarks of a process."""

import functools
from typing import Any

import sfumato


@functools.cache
def load_emoji() -> Any:
    return sfumato.load_model("emoji")
