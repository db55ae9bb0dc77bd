"""Pins the source branch of a run to the latents that its inversion went through.

What the other branches take from the source (attention, features, masks) then comes from the image itself, not from a
replay that drifts. Source: Tumanyan et al., 2022, https://arxiv.org/abs/2211.12572 (their second release reads the
source latents of every step from the inversion); Ju et al., 2023, https://arxiv.org/abs/2310.01506, Alg. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.models.schedules import Step


class PinSource:
    """Sets branch 0 to known latents: as a `before_step` hook to those at t, `after` as an `on_step` hook at t_prev.

    As a `before_step` hook the last step still denoises, so the run ends with an honest reconstruction. With `after`
    the source ends as the clean latents themselves.
    """

    def __init__(self, latents_at: Callable[[float], Tensor], timesteps: Sequence[float]) -> None:
        """Looks up all latents now, so that a missing timestep fails before the first network call.

        Args:
            latents_at: Latents by timestep, (image, channels, height, width), -1 for the clean ones: see
                `Inversion.latents_at`, whose errors pass through.
            timesteps: The grid that will be sampled.
        """
        self._known = {t: latents_at(t) for t in (*timesteps, -1)}

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """Latents of all branches, (branch, image, channels, height, width), the source's as at t."""
        return self._pinned(latents, step.time)

    def after(self, latents: Tensor, step: Step) -> Tensor:
        """Latents of all branches after the step, the source's as at t_prev."""
        return self._pinned(latents, max(step.time_prev, -1))

    def _pinned(self, latents: Tensor, t: float) -> Tensor:
        source = self._known[t].to(latents).expand_as(latents[0])
        return torch.cat([source[None], latents[1:]])
