"""What benchmarks of edits share: which methods with which inversions, and one edit with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

import sfumato
from sfumato.bench.benchmark import Configuration
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from sfumato.metrics.psnr import psnr

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.api.results import EditResult
    from sfumato.api.translate import TranslateResult
    from sfumato.models.base import Model

SLOW = {"null-text", "auto"}
CHANGED_ABOVE = 8
"""A pixel that differs by more, 0-255 in any channel, is part of the edit; so are its neighbours two pixels around."""
LEAST_UNCHANGED = 0.02
"""Share of the pixels below which what is kept is not measured."""
HIGHEST_PSNR = 50.0
"""Above it no difference is visible, and one perfect result must not decide a mean."""


def edit_configurations(
    methods: Sequence[str], inversions: Sequence[str], references: Sequence[str] = ()
) -> list[Configuration]:
    """Every method with every inversion that serves it.

    Args:
        methods: Names in `METHODS`, or references; empty: all references, and all methods but the slow `auto`.
        inversions: Names in `INVERSIONS`; empty: each method's first choice; ("all",): all but the slow null-text.
        references: A benchmark's own rows, such as "unedited".

    Raises:
        UsageError: A name is unknown, or no method takes any of the inversions.
    """
    every = list(inversions) == ["all"]
    for name in [] if every else inversions:
        _ = INVERSIONS[name]  # raises for an unknown name
    found = [Configuration(name) for name in references if not methods or name in methods]
    names = [name for name in methods if name not in references] or (
        [] if methods else [name for name in METHODS if name not in SLOW]
    )
    served = False
    for name in names:
        entry = METHODS[name]
        if not inversions or entry.from_image:
            found.append(Configuration(name, entry.default_inversion))
            continue
        taken = [one for one in entry.inversions if (one not in SLOW if every else one in inversions)]
        served = served or bool(taken)
        found += [Configuration(name, one) for one in taken]
    if inversions and names and not served:
        raise UsageError(f"none of {', '.join(names)} takes an inversion of {', '.join(inversions)}")
    return found


def edited(
    model: Model,
    image: Image.Image,
    source_prompt: str,
    target_prompt: str,
    configuration: Configuration,
    *,
    steps: int | None,
    seed: int,
    **more: Any,
) -> EditResult:
    """One edit as the configuration says; see `sfumato.edit`."""
    return sfumato.edit(
        model,
        image,
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        method=configuration.method,
        inversion=configuration.inversion or None,
        num_inference_steps=steps,
        seed=seed,
        watch=QUIET,
        **{**configuration.options, **more},
    )


def price(result: EditResult | TranslateResult) -> dict[str, float | int]:
    """What an edit cost, as figures."""
    return {
        "evaluations": result.cost.evaluations,
        "seconds": round(result.cost.seconds, 3),
        "memory_gb": round(result.cost.peak_memory / 2**30, 3),
    }


def changed_region(source: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where the exact edit changes the image, bool (H, W); images are uint8 (H, W, 3)."""
    differs = np.abs(source.astype(int) - truth.astype(int)).max(axis=-1) > CHANGED_ABOVE
    grown = F.max_pool2d(torch.from_numpy(differs).float()[None, None], 5, stride=1, padding=2)
    return np.asarray(grown[0, 0].bool())


def kept_psnr(result: np.ndarray, source: np.ndarray, kept: np.ndarray) -> float | None:
    """PSNR in dB of result against source where an edit changes nothing, at most `HIGHEST_PSNR`.

    Args:
        result, source: uint8, (H, W, 3).
        kept: Where nothing changes, bool (H, W).

    Returns:
        None where that is too little to measure.
    """
    if kept.mean() < LEAST_UNCHANGED:
        return None
    return min(psnr(result[kept], source[kept], data_range=255), HIGHEST_PSNR)


QUIET = sfumato.Watch(progress=lambda progress: None)
"""No bar of its own: the runner has one."""
