"""Named branches, and the axes behind the rows of a network call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.stepper import Stepper

Scale = float | Callable[[Step], float]


@dataclass(frozen=True)
class Branch:
    """What one branch of a run sees.

    Attributes:
        condition: Its prompt; one row, or one row an image.
        negative: What guidance leads away from; None: the empty prompt.
        guidance_scale: w in uncond + w (cond - uncond); 1 = off; may depend on the step.
    """

    condition: Condition
    negative: Condition | None = None
    guidance_scale: Scale = 1.0

    def scale(self, step: Step) -> float:
        return self.guidance_scale(step) if callable(self.guidance_scale) else self.guidance_scale


@dataclass(frozen=True)
class Layout:
    """The axes behind the rows of a run's network calls.

    Attributes:
        guidance: ("uncond", "cond"), or ("cond",) where no branch is guided.
        branches: Names, in order.
        images: Images in the batch.
        latent_size: (height, width) of the latents.
    """

    guidance: tuple[str, ...]
    branches: tuple[str, ...]
    images: int
    latent_size: tuple[int, int]

    @property
    def axes(self) -> tuple[int, int, int]:
        return len(self.guidance), len(self.branches), self.images


class Control(Protocol):
    """Something installed in the network for the length of a run."""

    def installed(self, model: Model, layout: Layout) -> AbstractContextManager[Any]:
        """Patches the model inside the block, and leaves it as found."""

    def at_step(self, step: Step) -> None:
        """Told before the network call of each step."""


class Replay(Protocol):
    """What a run may take from an inversion.

    Attributes:
        noise_maps: Noise consumed by each step of the grid, (steps, image, channels, height, width), or None.
        null_embeds: Embedding in place of the empty prompt's at each step, (steps, image, tokens, dim), or None.
        null_pooled_embeds: The pooled embedding that goes with it, (image, dim), or None: as it is.
        pinned: Whether branch 0 is set to known latents after every step.
        stepper: What replays it; None: any.
    """

    @property
    def noise_maps(self) -> Tensor | None: ...

    @property
    def null_embeds(self) -> Tensor | None: ...

    @property
    def null_pooled_embeds(self) -> Tensor | None: ...

    @property
    def pinned(self) -> bool: ...

    @property
    def stepper(self) -> Stepper[Any] | None: ...

    def latents_at(self, t: int) -> Tensor:
        """Known latents at timestep t, (image, channels, height, width), the clean ones at -1."""
