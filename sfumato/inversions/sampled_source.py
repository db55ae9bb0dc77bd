"""The trajectory of a generated image: its source branch sampled once, every latent kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.watch import Watch


def with_trajectory(model: Model, source: Inversion, branch: Branch, *, watch: Watch | None = None) -> Inversion:
    """The inversion itself where it keeps its trajectory; else the same with that of a DDIM run from its noise.

    Costs nothing, or one network evaluation a step and image, two with guidance.

    Args:
        model: Any model.
        source: An inversion, or drawn noise.
        branch: Prompt and guidance of the source.
        watch: Progress and cancellation.
    """
    if source.trajectory is not None:
        return source
    trajectory = [source.noise.to(model.device)]

    def keep(latents: Tensor, step: Step) -> Tensor:
        trajectory.append(latents[0])
        return latents

    sample(model, source.noise, {"source": branch}, timesteps=source.timesteps, on_step=[keep], watch=watch)
    return replace(source, trajectory=torch.stack(trajectory[::-1]))
