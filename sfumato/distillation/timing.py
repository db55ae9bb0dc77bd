"""How long a distilled edit takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image

from sfumato.distillation.distilled import Distilled


def milliseconds(distilled: Distilled, image: Image.Image, *, at_once: int = 1, tries: int = 3) -> float:
    """For one image, from image to image, on one thread; the best of some tries.

    Args:
        distilled: The edit.
        image: What is edited.
        at_once: How many of it are edited in one batch.
        tries: Of which the first may be slower than the others.
    """
    found = []
    with one_thread():
        for _ in range(tries):
            start = time.perf_counter()
            distilled.apply_each([image] * at_once)
            found.append(1000.0 * (time.perf_counter() - start) / at_once)
    return min(found)


@contextmanager
def one_thread() -> Iterator[None]:
    """Has torch compute on one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
