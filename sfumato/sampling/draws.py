"""Random draws, one stream an image: what an image gets does not depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from sfumato.errors import UsageError

Generators: TypeAlias = torch.Generator | Sequence[torch.Generator | None] | None
"""One generator for each image of a batch; or a single one, from which the first image draws as if it were alone and
that seeds one for each further image; or None: torch's own."""


def streams(generator: Generators, images: int) -> list[torch.Generator | None]:
    """A generator for each image.

    Raises:
        UsageError: There are not as many generators as images.
    """
    if generator is None:
        return [None] * images
    if not isinstance(generator, torch.Generator):
        if len(generator) != images:
            raise UsageError(f"generator must be one for each of {images} images, got {len(generator)}")
        return list(generator)
    if images == 1:
        return [generator]
    # by way of one number: the seeds of two calls must not be the same ones, shifted
    ahead = _copy(generator)
    base = int(torch.randint(2**62, (), generator=ahead, device=ahead.device))
    seeds = torch.randint(2**62, (images - 1,), generator=torch.Generator().manual_seed(base)).tolist()
    return [generator, *(torch.Generator(generator.device).manual_seed(seed) for seed in seeds)]


def for_branches(generators: Sequence[torch.Generator | None], branches: int) -> list[torch.Generator | None]:
    """A generator for each row (branch, image): from now on every branch draws what the first one does."""
    copies = [None if generator is None else _copy(generator) for _ in range(branches - 1) for generator in generators]
    return [*generators, *copies]


def alike(shape: Sequence[int], generator: Generators) -> tuple[int, ...]:
    """The shape to draw, (..., image, channels, height, width): from a single generator, the same for all images."""
    shared = generator is None or isinstance(generator, torch.Generator)
    return (*shape[:-4], 1 if shared else shape[-4], *shape[-3:])


def _copy(generator: torch.Generator) -> torch.Generator:
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return copied


def draw_noise(shape: Sequence[int], generator: Generators, like: Tensor) -> Tensor:
    """A standard normal draw, each image's from its own generator in one call.

    Args:
        shape: (..., image, channels, height, width).
        generator: One for each image, or see `Generators`.
        like: Has the dtype and the device of the result.
    """
    *before, images, channels, height, width = shape
    parts = [
        torch.randn(
            (*before, 1, channels, height, width),
            generator=stream,
            dtype=like.dtype,
            device=like.device if stream is None else stream.device,
        )
        for stream in streams(generator, images)
    ]
    return torch.cat(parts, dim=-4).to(like)


def given_or_drawn(
    noise: Tensor | None, shape: Sequence[int], generator: Generators, like: Tensor, *, each: str
) -> Tensor:
    """The draws that a caller gave in place of the generator's, checked; else fresh ones.

    Args:
        noise: What was given, or None.
        shape: (draw, image, channels, height, width).
        generator, like: See `draw_noise`.
        each: What has a draw, for the message: "a step".

    Raises:
        UsageError: The noise has another shape.
    """
    if noise is None:
        return draw_noise(shape, generator, like)
    if tuple(noise.shape) != tuple(shape):
        raise UsageError(f"noise must be {tuple(shape)}, one draw {each}, got {tuple(noise.shape)}")
    return noise.to(like)
