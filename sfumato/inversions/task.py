"""What every inversion is given, and what inversions share of it: the steps, the source branch, the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.inversions.source import SourceBranch
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.draws import Generators, streams
from sfumato.watch import Item, Watch


@dataclass(frozen=True, eq=False)
class InversionTask:
    """What to invert, with which model, on which grid.

    Attributes:
        model: Any model.
        latents: Clean latents x_0, (image, channels, height, width).
        condition: The source prompt; one row, or one an image.
        negative: The negative prompt, likewise; None: the empty prompt.
        guidance_scale: Guidance of the source branch in the replay, 1 = off; inversions that correct for guidance are
            made for it.
        num_inference_steps: Steps of the grid that sampling will use.
        timesteps: An explicit grid instead, noisiest first.
        generator: For inversions that draw: one for each image, or see `Generators`.
        watch: Progress and cancellation.
    """

    model: Model
    latents: Tensor
    condition: Condition
    negative: Condition | None = None
    guidance_scale: float = 1.0
    num_inference_steps: int = 50
    timesteps: Sequence[float] | None = None
    generator: Generators = None
    watch: Watch = field(default_factory=Watch)

    @cached_property
    def steps(self) -> list[Step]:
        """Steps of the grid in sampling order, noisiest first."""
        size = (self.latents.shape[-2], self.latents.shape[-1])
        return self.model.schedule.steps(self.num_inference_steps, timesteps=self.timesteps, latent_size=size)

    @cached_property
    def clean(self) -> Tensor:
        """The latents on the model's device, in float64 where they are given so, else in float32."""
        latents = self.latents.to(self.model.device)
        return latents if latents.dtype == torch.float64 else latents.float()

    def source(self, guidance_scale: float | None = None) -> SourceBranch:
        """The source branch, which predicts noise; None: at the guidance of the replay."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        return SourceBranch(self.model, self.clean, self.condition, self.negative, scale)

    def over(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yields the items of a walk, reports progress and asks for cancellation around each."""
        return self.watch.during("inverting").over(items)

    def image(self, k: int) -> InversionTask:
        """The task of one image of the batch; its own generator where each image has one."""
        count, shared = len(self.latents), isinstance(self.generator, torch.Generator)
        return replace(
            self,
            latents=self.latents[[k]],
            condition=self.condition.expand(count)[[k]],
            negative=None if self.negative is None else self.negative.expand(count)[[k]],
            generator=self.generator if shared else streams(self.generator, count)[k],
        )

    @property
    def unguided(self) -> InversionTask:
        """The same for a replay without guidance."""
        return replace(self, guidance_scale=1.0)

    def inversion(self, method: str, noise: Tensor, **result: Any) -> Inversion:
        """The result, on the task's grid; `result` are further fields of `Inversion`."""
        timesteps = tuple(step.time for step in self.steps)
        scale, revision = self.guidance_scale, self.model.revision
        return Inversion(method, noise, timesteps, guidance_scale=scale, model_revision=revision, **result)
