"""What every morph is given, and what morphs share of it: the prompts, the inversions, the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from sfumato.adaptation.store import Slot, Store
from sfumato.inversions.task import InversionTask
from sfumato.metrics.distance import Distance
from sfumato.models.base import Condition, Model
from sfumato.morphs.path import Ends, adaptation_key
from sfumato.watch import Watch


@dataclass(frozen=True, eq=False)
class MorphTask:
    """Two images to morph, with which model, and how frames are sampled.

    Attributes:
        model: Any model that can honour the method; nothing stays in it.
        ends: The two images.
        distance: Perceptual distance of images, for methods that measure.
        generator: Draws whatever a method draws.
        negative_prompt: Of all frames.
        guidance_scale: Of the frames, 1 = off; methods that vary it use this in the middle of the path.
        num_inference_steps: Of every frame, and of inversions.
        store: Keeps what a method trains, by all that it depends on; None: nothing is kept.
        watch: Progress and cancellation.
    """

    model: Model
    ends: Ends
    distance: Distance
    generator: torch.Generator
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    num_inference_steps: int = 50
    store: Store | None = None
    watch: Watch = field(default_factory=Watch)

    @cached_property
    def condition(self) -> Condition:
        """The prompts of the two images, two rows."""
        return self.model.encode_prompt(list(self.ends.prompts))

    @cached_property
    def negative(self) -> Condition:
        """The negative prompt, one row."""
        return self.model.encode_prompt(self.negative_prompt)

    @property
    def frame_watch(self) -> Watch:
        """For the steps of a frame: it may be cancelled; progress is counted in frames."""
        return Watch(cancelled=self.watch.cancelled)

    def inversion(self, guidance_scale: float = 1.0) -> InversionTask:
        """The task of inverting both images in one batch, each under its own prompt.

        Args:
            guidance_scale: Of the replay.
        """
        return InversionTask(
            self.model, self.ends.latents, self.condition, self.negative, guidance_scale, self.num_inference_steps,
            generator=self.generator, watch=self.watch,
        )  # fmt: skip

    def slot(self, part: str, options: Mapping[str, Any]) -> Slot | None:
        """Where the store keeps an adaptation, see `adaptation_key`; None without a store."""
        return None if self.store is None else self.store.slot(adaptation_key(self.model, self.ends, part, options))
