"""Recording what attention computes, to compare with it or use it again later in the run or in another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.attention.patch import BOTH, AttentionEdit
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Layout


class RecordKey(NamedTuple):
    """Which row of a run: a guidance half of a branch."""

    guidance: str
    branch: str


class Recorder:
    """Tensors by (step, layer, row).

    With `spill` they wait in CPU memory, pinned where they come from a GPU, and travel back when asked for: the maps of
    all steps of Stable Diffusion 1.x at 512 px are 6.6 GB in float32.
    """

    def __init__(self, *, spill: bool = False) -> None:
        self.spill = spill
        self._kept: dict[tuple[int, str, RecordKey], Tensor] = {}

    def put(self, step_index: int, layer_name: str, row: RecordKey, tensor: Tensor) -> None:
        """Keeps a tensor, without its gradient history, in place of what was kept under the same key."""
        tensor = tensor.detach()
        if self.spill and tensor.device.type != "cpu":
            waiting = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
            tensor = waiting.copy_(tensor)
        self._kept[step_index, layer_name, row] = tensor

    def get(
        self, step_index: int, layer_name: str, row: RecordKey, *, device: torch.device | str | None = None
    ) -> Tensor:
        """What was kept under that key, on a device (None: where it waits).

        Raises:
            KeyError: Nothing was; names the key.
        """
        key = (step_index, layer_name, row)
        if key not in self._kept:
            raise KeyError(f"nothing was recorded at step {step_index}, layer {layer_name}, row {tuple(row)}")
        tensor = self._kept[key]
        return tensor if device is None else tensor.to(device, non_blocking=True)

    def forget(self, step_index: int | None = None) -> None:
        """Drops what a step left, or everything."""
        for key in [key for key in self._kept if step_index in (None, key[0])]:
            del self._kept[key]

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Memory that is held."""
        return sum(tensor.nbytes for tensor in self._kept.values())


class RecordMaps(AttentionEdit):
    """Records layout maps, (image, heads, image position, token) for each row, while it is switched on.

    Attributes:
        recorder: Where they go.
        on: Whether it records.
    """

    guidance = BOTH
    needs_map = True

    def __init__(self, recorder: Recorder, *, on: bool = True) -> None:
        self.recorder, self.on = recorder, on
        self._layout: Layout | None = None

    def begin(self, layout: Layout, sites: Sequence[AttentionSite]) -> None:
        self._layout = layout

    def selects(self, site: AttentionSite) -> bool:
        return site.text_keys is not None

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """On inside the block, off after it."""
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def edit_maps(self, maps: Tensor, site: AttentionSite, step: Step) -> Tensor:
        assert self._layout is not None, "the edit must be installed"
        for guidance, of_guidance in zip(self._layout.guidance, maps, strict=True):
            for branch, of_branch in zip(self._layout.branches, of_guidance, strict=True):
                self.recorder.put(step.index, site.name, RecordKey(guidance, branch), of_branch)
        return maps
