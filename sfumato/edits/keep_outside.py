"""Keeps the image outside a mask, for every method.

After every step all latents outside the mask are set to the image's own at that noise level: those of its inversion, or
the clean ones with noise. Grey counts as inside there, so that a soft mask does not weaken the edit at every step. The
grey values are used once, in a blend with the clean latents at the end (`blended`): 0.5 keeps half of the image,
whatever the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Step, add_noise


@dataclass(frozen=True)
class KeepOutside:
    """An `on_step` hook that keeps the image outside a mask.

    Attributes:
        weight: How much of the edit shows, at latent size, (1, 1, height, width), in [0, 1]; above 0 is inside.
        clean: The image's latents, (image, channels, height, width).
        source: What its latents at the levels of the run are read from; where it holds them not, they are made of
            `clean` and its noise.
        targets: How many edited branches a run without a source branch has.
    """

    weight: Tensor
    clean: Tensor
    source: Inversion
    targets: int

    @property
    def inside(self) -> Tensor:
        """Where anything may change, (1, 1, height, width), 0 or 1: what a method with a mask of its own is given."""
        return (self.weight > 0.0).to(self.weight)

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """Latents of all branches, (branch, image, channels, height, width), the edited ones held to the image."""
        sources = 0 if len(latents) == self.targets else 1
        inside = (self.weight > 0.0).to(latents.device)
        edited = torch.where(inside, latents[sources:], self._image_at(step).to(latents))
        return torch.cat([latents[:sources], edited])

    def blended(self, latents: Tensor, *, soft: bool = True) -> Tensor:
        """Edited clean latents, (rows, channels, height, width), blended into the image once.

        Args:
            latents: Of one image, a row an edit.
            soft: By the greys; otherwise all that is inside is taken as it is.
        """
        weight = (self.weight if soft else self.inside).to(latents)
        # both ends exactly: outside the very latents of the image, inside those of the edit
        blend = torch.lerp(self.clean.to(latents), latents, weight)
        return torch.where(weight == 0.0, self.clean.to(latents), torch.where(weight == 1.0, latents, blend))

    def _image_at(self, step: Step) -> Tensor:
        """The image's latents after the step, (image, channels, height, width)."""
        if step.time_prev < 0:
            return self.clean
        index = self.source.index_at(step.time_prev)  # a run may take a part of the inversion's grid
        if index is not None and self.source.holds(index):
            return self.source.latents_at(index)
        return add_noise(self.clean, self.source.noise.to(self.clean), step.level_prev)
