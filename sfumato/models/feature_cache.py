"""Deep features of a UNet, used again in later steps (DeepCache: Ma et al., 2023), https://arxiv.org/abs/2312.00858.

From one step to the next the output of the deep stages changes little. A step that uses them again computes the first
stage of the encoder and the last of the decoder alone; what the one before the last gave is that of an earlier step.

Differs from the paper: whole stages are skipped, which is its cache branch at the first stage's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from sfumato.models.hooks import forwards_replaced


class FeatureCache(Protocol):
    """Features that a network keeps for later steps."""

    def at_step(self, *, reuse: bool) -> None:
        """Called before the network calls of each step.

        Args:
            reuse: Use the features of the step before, call for call; a call of other rows is computed in full.
        """


class DeepFeatures:
    """The `FeatureCache` of a UNet: what its decoder's stage before the last gave, for each network call of a step."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._reuse = self._skips = False
        self._call = 0
        self._outputs: dict[str, int] = {}  # how many tensors an encoder stage hands on, by its name

    def at_step(self, *, reuse: bool) -> None:
        self._reuse, self._call = reuse, 0

    def stage(self, name: str, forward: Callable[..., Any], *, first: bool, last: bool) -> Callable[..., Any]:
        """The forward of a deep stage, which does nothing where features of an earlier step are used.

        Args:
            name: Of the stage.
            forward: Its own.
            first, last: Whether it is the first of the deep stages, or the last, whose output is kept.
        """

        def called(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if first:
                known = self._kept[self._call] if self._reuse and self._call < len(self._kept) else None
                self._skips = known is not None and known.shape[0] == hidden_states.shape[0]
            if self._skips:
                output = self._kept[self._call] if last else hidden_states
                if count := self._outputs.get(name):
                    return output, (output,) * count
            else:
                output = forward(hidden_states, *args, **kwargs)
                if isinstance(output, tuple):
                    self._outputs[name] = len(output[1])
            if last:
                self._kept[self._call : self._call + 1] = [output]
                self._call += 1
            return output

        return called


def has_deep_stages(unet: Any) -> bool:
    """Whether there is anything between the first stage of the encoder and the last of the decoder to keep."""
    return len(unet.down_blocks) > 1 and len(unet.up_blocks) > 1


@contextmanager
def deep_features_kept(unet: Any) -> Iterator[DeepFeatures]:
    """Lets the deep stages be skipped inside the block; the network is as found afterwards, whatever happened."""
    names = [f"down_blocks.{k}" for k in range(1, len(unet.down_blocks))]
    names += ["mid_block"] if unet.mid_block is not None else []
    names += [f"up_blocks.{k}" for k in range(len(unet.up_blocks) - 1)]
    stages, cache = {name: unet.get_submodule(name) for name in names}, DeepFeatures()

    def skipping(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        return cache.stage(name, forward, first=name == names[0], last=name == names[-1])

    with forwards_replaced(stages, skipping):
        yield cache
