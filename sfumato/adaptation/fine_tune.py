"""Fine-tuning by low-rank adapters: one for all images (IMPUS), or one each (DiffMorpher).

Sources: Hu et al., 2021, https://arxiv.org/abs/2106.09685; Yang et al., 2024 (IMPUS), https://arxiv.org/abs/2311.06792,
section 4.1; Zhang et al., 2024 (DiffMorpher), https://arxiv.org/abs/2312.07409, section 3.2. The network's own weights
are never touched: an adapter is data, and works while its hooks are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.adaptation.lora import Lora, adapted
from sfumato.adaptation.store import Slot
from sfumato.adaptation.training import Denoising, Draws, fit, leaves
from sfumato.errors import UsageError
from sfumato.models.base import Condition, Model
from sfumato.watch import Watch


@dataclass(frozen=True)
class FineTuned:
    """Trained adapters.

    Attributes:
        loras: As many as were given, in float32, without gradients.
        losses: Of each image before each update, (iteration, image).
    """

    loras: tuple[Lora, ...]
    losses: Tensor

    @property
    def lora(self) -> Lora:
        """The first (often only) one."""
        return self.loras[0]


def fine_tune(
    model: Model,
    latents: Tensor,
    condition: Condition,
    loras: Sequence[Lora],
    *,
    iterations: int,
    draws: Draws,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-2,
    rate: Callable[[int], float] | None = None,
    slot: Slot | None = None,
    watch: Watch | None = None,
) -> FineTuned:
    """Trains adapters on the denoising loss of images, each image under its own condition.

    The losses of the images are summed, so an image with an adapter of its own is trained as if alone. One AdamW
    step an iteration. Costs iterations x images x draws network evaluations with a backward pass; none for a run that
    the slot holds complete.

    Args:
        model: Stays as found, also when this raises.
        latents: Clean latents, (image, channels, height, width).
        condition: What the network is conditioned on; one row, or one an image.
        loras: Where training starts: a single one for all images, or one an image. Not changed.
        iterations: 0 gives the start back.
        draws: Timesteps and noises.
        learning_rate, betas, weight_decay: Of AdamW.
        rate: Learning rate of each iteration, instead of a constant one.
        slot: Where the run is kept and resumed.
        watch: Progress and cancellation.

    Raises:
        UsageError: Neither one adapter nor one an image; given draws that do not fit.
        SamplingError: The loss broke down.
        Cancelled: The watch asked to stop.
    """
    images = len(latents)
    if len(loras) not in (1, images):
        raise UsageError(f"{len(loras)} adapters do not fit {images} images: give one, or one an image")
    trained = [leaves(lora.tensors(), model) for lora in loras]
    parameters = {f"{k}/{name}": tensor for k, tensors in enumerate(trained) for name, tensor in tensors.items()}
    condition = condition.expand(images)
    rows: list[int] = []

    def condition_of(chosen: list[int]) -> Condition:
        rows[:] = chosen
        return condition[chosen]

    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
    with _each_adapted(model, [Lora.from_tensors(tensors) for tensors in trained], rows):
        losses = fit(
            parameters, Denoising(model, latents, draws), condition_of, optimizer, iterations,
            rate=rate, slot=slot, watch=watch,
        )  # fmt: skip
    frozen = [{name: tensor.detach() for name, tensor in tensors.items()} for tensors in trained]
    return FineTuned(tuple(Lora.from_tensors(tensors) for tensors in frozen), losses)


@contextmanager
def _each_adapted(model: Model, loras: Sequence[Lora], rows: list[int]) -> Iterator[None]:
    """The model under one adapter for all rows, or under one an image, `rows` saying whose each row is."""
    if len(loras) == 1:
        with adapted(model, loras[0]):
            yield
        return

    def change(name: str, hidden_states: Tensor, output: Tensor) -> Tensor:
        pairs = [lora.factors[name] for lora in loras]
        changes = [
            F.linear(F.linear(hidden_states[[row]], pairs[image][0].to(output)), pairs[image][1].to(output))
            for row, image in enumerate(rows)
        ]
        return output + torch.cat(changes)

    with model.projection_hook(loras[0].factors.keys(), change):
        yield
