"""What is done to a model's networks so that they run faster, or fit: torch.compile, order of weights, offloading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

    from sfumato.models.base import Model

OFFLOADS: Final = ("model", "group")
"""What may be brought to the device by itself, see `sfumato.models.offload`."""


@dataclass(frozen=True)
class Speed:
    """Options of `load_model`.

    Attributes:
        compile: Compile the denoising network's blocks, see `sfumato.models.compiling`.
        channels_last: Keep the weights of convolutions in the channels-last order.
        offload: One of `OFFLOADS`; None: the weights lie on the device.
    """

    compile: bool = False
    channels_last: bool = False
    offload: str | None = None

    def apply(self, networks: Mapping[str, Any], name: str, device: torch.device | None) -> None:
        """Changes networks, by their part, for good; `device` is where they compute, None: where they are.

        Raises:
            ModelError, UsageError: See `compile_blocks`.
        """
        if self.channels_last:
            import torch

            for network in networks.values():
                network.to(memory_format=torch.channels_last)
        if self.compile:
            from sfumato.models.compiling import compile_blocks

            compile_blocks(networks["transformer" if "transformer" in networks else "unet"], name, device=device)

    def place(self, model: Model, device: torch.device | None) -> None:
        """Offloads the networks of a model, which lie on the processor, where that is asked for.

        Raises:
            ModelError: See `offload`.
        """
        if self.offload is not None:
            from sfumato.models.offload import offload

            assert device is not None, "of a model that is loaded here, the device is known"
            offload(model, self.offload, device)


AS_LOADED: Final = Speed()
"""Nothing is done."""
