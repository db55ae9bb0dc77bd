"""Interpolates between two inverted images.

Both ends are inverted in one batch, each under its own prompt. A frame replays a mixture of the two: noise and noise
maps on the great circle, embeddings and corrections on the straight line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.inversions.result import Inversion
from sfumato.morphs.path import Draw
from sfumato.morphs.slerp import slerp

InversionName = Literal[
    "ddim",
    "fixed-point",
    "rf-solver",
    "fireflow",
    "regularised-ddim",
    "bdia",
    "null-text",
    "negative-prompt",
    "dpm-encoder",
    "edit-friendly",
]
"""Inversions whose replay needs nothing of the image but what can be mixed."""


def between(inversion: Inversion, weights: Sequence[float]) -> Inversion:
    """What frames between two inverted images replay; the images of the result are the frames.

    Args:
        inversion: Its two images are the ends.
        weights: Of the frames, in [0, 1].
    """

    def walked(tensor: Tensor | None) -> Tensor | None:  # (..., image, channels, height, width)
        return None if tensor is None else torch.cat([_slerped(tensor, weight) for weight in weights], dim=-4)

    def mixed(tensor: Tensor, axis: int) -> Tensor:
        first, second = tensor.split(1, dim=axis)
        return torch.cat([torch.lerp(first, second, weight) for weight in weights], dim=axis)

    noise = walked(inversion.noise)
    assert noise is not None
    return replace(
        inversion,
        noise=noise,
        trajectory=None,
        residuals=None,
        noise_maps=walked(inversion.noise_maps),
        null_embeds=None if inversion.null_embeds is None else mixed(inversion.null_embeds, 1),
        null_extras={name: mixed(tensor, 0) for name, tensor in inversion.null_extras.items()},
        correction=None if inversion.correction is None else mixed(inversion.correction, 0),
    )


def as_branches(inversion: Inversion) -> Inversion:
    """The same with its images as the branches of a run of one image: an attention edit tells branches apart.

    Raises:
        UsageError: It keeps null embeddings, which a run has for all branches alike.
    """
    if inversion.null_embeds is not None:
        raise UsageError(
            f"a {inversion.method} inversion keeps null embeddings, which frames cannot share: choose another inversion"
        )

    def split(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.unsqueeze(-4)

    return replace(
        inversion,
        noise=inversion.noise[:, None],
        noise_maps=split(inversion.noise_maps),
        correction=split(inversion.correction),
    )


def _slerped(tensor: Tensor, weight: float) -> Tensor:
    """The walk from image 0 to image 1, each image's tensor one vector at every step."""
    first, second = tensor.split(1, dim=-4)
    return slerp(first, second, weight, dims=(-3, -2, -1))


def tent(weight: float, middle: float, at_ends: float) -> float:
    """A straight line from `at_ends` at weight 0 up to `middle` at 0.5, and down again to 1."""
    return middle - abs(2.0 * weight - 1.0) * (middle - at_ends)


KEPT_AT_MOST = 4 * 2**30
"""Bytes that the two ends may leave behind for their frames."""


def draw_between(run: Callable[[Sequence[float]], Tensor], *, kept: bool) -> Draw:
    """Turns runs of rows, the ends among them or kept from an earlier run, into frames by their weights.

    Args:
        run: From the weights of the rows of a run to their latents; 0.0 first and 1.0 last are the ends.
        kept: Whether a run of the ends alone leaves behind what later runs read; it is made now. Otherwise both ends
            are rows of every run.
    """
    ends = run([0.0, 1.0]) if kept else None

    def draw(weights: Sequence[float]) -> Tensor:
        middle = [weight for weight in dict.fromkeys(weights) if 0.0 < weight < 1.0]
        if ends is None:
            drawn = dict(zip([0.0, *middle, 1.0], run([0.0, *middle, 1.0]), strict=True))
        else:
            drawn = dict(zip([0.0, 1.0], ends, strict=True))
            drawn |= dict(zip(middle, run(middle), strict=True)) if middle else {}
        return torch.stack([drawn[weight] for weight in weights])

    return draw
