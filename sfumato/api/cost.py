"""What a run cost: network evaluations, seconds, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.models.base import Model


@dataclass
class Cost:
    """Filled in when the measured block ends.

    Attributes:
        evaluations: Single-sample network evaluations.
        seconds: Wall-clock time.
        peak_memory: Bytes: on CUDA the most that tensors held at once, elsewhere the most that the process held
            (weights and libraries included).
    """

    evaluations: int = 0
    seconds: float = 0.0
    peak_memory: int = 0

    def __str__(self) -> str:
        gigabytes = self.peak_memory / 2**30
        return f"{self.evaluations} network evaluations, {self.seconds:.1f} s, peak memory {gigabytes:.2f} GB"


@contextmanager
def measured(model: Model) -> Iterator[Cost]:
    """Measures the block; the cost is filled in at its end, also when it raises."""
    import torch

    cost, before, start = Cost(), model.evaluations, time.perf_counter()
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    else:
        reset_peak()
    try:
        yield cost
    finally:
        cost.evaluations = model.evaluations - before
        cost.seconds = time.perf_counter() - start
        cost.peak_memory = torch.cuda.max_memory_allocated(model.device) if cuda else peak()


def reset_peak() -> None:
    """Starts the process's peak anew where the system allows it (Linux); elsewhere it is the peak since the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Bytes that the process held at most since then."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
