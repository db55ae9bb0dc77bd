"""What is done to a model's networks so that they run faster: torch.compile, and the order of weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Speed:
    """Options of `load_model`.

    Attributes:
        compile: Compile the denoising network's blocks, see `sfumato.models.compiling`.
        channels_last: Keep the weights of convolutions in the channels-last order.
    """

    compile: bool = False
    channels_last: bool = False

    def apply(self, networks: Mapping[str, Any], name: str) -> None:
        """Changes networks, by their part, for good.

        Raises:
            ModelError, UsageError: See `compile_blocks`.
        """
        if self.channels_last:
            import torch

            for network in networks.values():
                network.to(memory_format=torch.channels_last)
        if self.compile:
            from sfumato.models.compiling import compile_blocks

            compile_blocks(networks["transformer" if "transformer" in networks else "unet"], name)


AS_LOADED: Final = Speed()
"""Nothing is done."""
