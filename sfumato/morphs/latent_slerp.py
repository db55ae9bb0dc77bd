"""Latent slerp: spherical interpolation between the inverted noise of both images.

The baseline of the morphing papers. Noise between two inverted noises is not of the kind that the network was trained
on, and no frame depends on its neighbour, so frames in the middle become soft or jump. Sources: Song et al., 2021,
https://arxiv.org/abs/2010.02502, section 5.3 (slerp of DDIM noise); Ho et al., 2020, https://arxiv.org/abs/2006.11239,
section 4.3.

The ends are the inversion's reconstructions; with DDIM inversion these need guidance scale 1, the default here.
Stochastic inversions (edit-friendly, DPM-Encoder) reconstruct exactly at any guidance scale; their noise maps are
interpolated as the noise is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from sfumato.conditions.mixing import mixed_condition
from sfumato.inversions.method import INVERSIONS
from sfumato.morphs.between_inversions import InversionName, between
from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.task import MorphTask
from sfumato.options import Option
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample


@morph_method(
    "slerp",
    title="Latent slerp",
    paper="Song et al., 2021, https://arxiv.org/abs/2010.02502, section 5.3",
    summary="Inverts both images and samples from noise on the great circle between theirs.",
    when="A baseline, or a fast first look: nothing is trained.",
    cost="2 evaluations a step to prepare, then 1 a step and frame; 2 with guidance.",
    guidance_scale=1.0,
)
def latent_slerp(
    task: MorphTask,
    *,
    inversion: Annotated[InversionName, Option("inversion of the two images")] = "ddim",
) -> MorphPath:
    """Prepares noise and embeddings between those of both images.

    With guidance the ends are reconstructed only by an inversion that corrects for it.
    """
    ends = INVERSIONS[inversion].function(task.inversion(task.guidance_scale))

    def draw(weights: Sequence[float]) -> Tensor:
        frames = between(ends, weights)
        branch = Branch(mixed_condition(task.condition, weights), task.negative, task.guidance_scale)
        latents = sample(
            task.model, frames.noise, {"frame": branch}, timesteps=frames.timesteps, start_index=frames.start_index,
            eta=frames.eta, replay=frames, watch=task.frame_watch,
        )  # fmt: skip
        return latents[0]

    return MorphPath(draw)
