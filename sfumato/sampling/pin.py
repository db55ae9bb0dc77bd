"""Pins the source branch of a run to the latents that its inversion went through.

What the other branches take from the source (attention, features, masks) then comes from the image itself, not from a
replay that drifts. Source: Tumanyan et al., 2022, https://arxiv.org/abs/2211.12572 (their second release reads the
source latents of every step from the inversion); Ju et al., 2023, https://arxiv.org/abs/2310.01506, Alg. 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.models.schedules import Step


class PinSource:
    """Sets branch 0 to known latents: as a `before_step` hook before a step, `after` as an `on_step` hook after it.

    As a `before_step` hook the last step still denoises, so the run ends with an honest reconstruction. With `after`
    the source ends as the clean latents themselves.
    """

    def __init__(self, latents_at: Callable[[int], Tensor], start_index: int, num_steps: int) -> None:
        """Looks up all latents now, so that missing ones fail before the first network call.

        Args:
            latents_at: Latents before the step of an index, (image, channels, height, width), the clean ones after the
                last: see `Inversion.latents_at`, whose errors pass through.
            start_index, num_steps: First step that will be run, and how many the grid has.
        """
        self._known = {index: latents_at(index) for index in range(start_index, num_steps + 1)}

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """Latents of all branches, (branch, image, channels, height, width), the source's as known before the step."""
        return self._pinned(latents, step.index)

    def after(self, latents: Tensor, step: Step) -> Tensor:
        """Latents of all branches after the step, the source's as known after it."""
        return self._pinned(latents, step.index + 1)

    def _pinned(self, latents: Tensor, index: int) -> Tensor:
        source = self._known[index].to(latents).expand_as(latents[0])
        return torch.cat([source[None], latents[1:]])
