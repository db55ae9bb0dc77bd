"""Refuses a run that would not fit into memory, by what earlier runs took."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from sfumato.errors import SamplingError
from sfumato.models.memory import RESERVE, free_memory, kilobytes

Result = TypeVar("Result")

_NO_MEMORY = re.compile(r"out of memory|(can't|cannot|unable to) allocate|not enough memory", re.IGNORECASE)


class Gauge:
    """Bytes of memory on a device: free, held by this process, and the most held since the last reset.

    On CUDA by what torch says; elsewhere of the computer and of the whole process (Linux).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None

    def free(self) -> int | None:
        """Bytes that a run may take; None where the system does not say."""
        return free_memory(self._device or torch.device("cpu"))

    def held(self) -> int:
        """Bytes that are held now; starts the peak anew."""
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return kilobytes("/proc/self/status", "VmRSS") or 0

    def peak(self) -> int:
        """The most bytes held since then."""
        if self._device is not None:
            return torch.cuda.max_memory_allocated(self._device)
        return kilobytes("/proc/self/status", "VmHWM") or 0

    def clear(self) -> None:
        """Gives back what torch keeps for later."""
        if self._device is not None:
            torch.cuda.empty_cache()


class MemoryGuard:
    """The memory of runs of one model: what the largest took for each pixel is what the next is expected to take."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._per_pixel = 0.0

    def run(self, work: Callable[[], Result], pixels: int) -> Result:
        """Does the work; out of memory, it clears torch's cache and tries once more.

        Args:
            work: A run; what it returns is returned.
            pixels: Of all images that it holds at once.

        Raises:
            SamplingError: It does not fit, by what earlier runs took, or did not.
        """
        self._check(pixels)
        try:
            return self._measured(work, pixels)
        except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError is a RuntimeError
            if not _is_memory(error):
                raise
        self._gauge.clear()  # outside of the block above: its error holds the tensors of the run
        try:
            return self._measured(work, pixels)
        except (RuntimeError, MemoryError) as error:
            if not _is_memory(error):
                raise
        self._gauge.clear()
        raise SamplingError("the memory is not enough for this: use a smaller image, or fewer images at once")

    def _check(self, pixels: int) -> None:
        free, needed = self._gauge.free(), self._per_pixel * pixels
        if free is not None and needed > free - RESERVE:
            raise SamplingError(
                f"this would take about {needed / 2**30:.1f} GB of memory, and {max(0, free - RESERVE) / 2**30:.1f} GB"
                " are free: use a smaller image, or fewer images at once"
            )

    def _measured(self, work: Callable[[], Result], pixels: int) -> Result:
        before = self._gauge.held()
        result = work()
        self._per_pixel = max(self._per_pixel, (self._gauge.peak() - before) / max(1, pixels))
        return result


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_NO_MEMORY.search(str(error)))
