"""Memory that is free on a device, and an autoencoder that keeps within it.

A batch that does not fit is encoded or decoded an image at a time, or a few; an image that does not fit by itself, in
tiles that overlap, whose seams are blended.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sfumato.models.offload import bring

RESERVE: Final = 256 * 2**20
"""Bytes that stay free."""
_PLANES: Final = 5
"""Tensors of the widest layer at full size that an autoencoder holds at once: 4, as measured, and one more."""
_TILE: Final = 512
"""Pixels along a side of a tile, at most."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that may be taken: on CUDA by what torch says, elsewhere of the computer (Linux); None: not known."""
    if device.type != "cuda":
        return kilobytes("/proc/meminfo", "MemAvailable")
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def kilobytes(file: str, name: str) -> int | None:
    """A line `name: ... kB` of a file, in bytes; None where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def within_memory(vae: Any, call: Callable[[Tensor], Tensor], batch: Tensor, pixels: int) -> Tensor:
    """What an autoencoder gives of a batch, in as many parts as memory asks for.

    Args:
        vae: The autoencoder.
        call: Encodes or decodes; each row by itself.
        batch: (image, channels, height, width).
        pixels: Of one image.
    """
    bring(vae)  # before what is free is read: another network may make room for it
    widths = list(vae.config.block_out_channels)
    needed = _PLANES * widths[min(1, len(widths) - 1)] * pixels * batch.element_size()
    free = free_memory(batch.device)
    room = None if free is None else free - RESERVE
    if room is None or needed * len(batch) <= room or _is_hooked(vae):
        return call(batch)
    with nullcontext() if needed <= room else _tiled(vae):
        return torch.cat([call(part) for part in batch.split(max(1, room // needed))])


def _is_hooked(vae: Any) -> bool:
    """Whether something looks into it that counts on whole batches and images."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in vae.modules())


@contextmanager
def _tiled(vae: Any) -> Iterator[None]:
    """Has the autoencoder work in tiles inside the block, where it can."""
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
    if not all(hasattr(vae, name) for name in names):
        yield
        return
    warnings.warn("little memory is free: the autoencoder works in tiles, whose seams are blended", stacklevel=2)
    saved = {name: getattr(vae, name) for name in names}
    side = min(_TILE, vae.tile_sample_min_size)
    try:
        vae.tile_latent_min_size = side * vae.tile_latent_min_size // vae.tile_sample_min_size
        vae.use_tiling, vae.tile_sample_min_size = True, side
        yield
    finally:
        for name, value in saved.items():
            setattr(vae, name, value)
