"""Plain latent slerp: both images inverted, their noises joined by a great circle, every point of it sampled.

The baseline that the morphing papers improve on. Noise between two inverted noises is no longer what the network was
trained on, and nothing ties a frame to its neighbour: frames in the middle grow soft or jump. Source of the parts:
Song et al., 2021, https://arxiv.org/abs/2010.02502, section 5.3 (slerp of DDIM noise); Ho et al., 2020,
https://arxiv.org/abs/2006.11239, section 4.3.

The ends come back as well as the inversion brings them: with DDIM inversion that is at guidance 1, the default here.
Stochastic inversions (edit-friendly, DPM-Encoder) bring them back exactly at any guidance; their noise maps are walked
along the great circle as the noise is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from sfumato.conditions.mixing import mixed_condition
from sfumato.morphs.between_inversions import InversionName, between
from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.task import MorphTask
from sfumato.options import Option
from sfumato.registry import INVERSIONS
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample


@morph_method(
    "slerp",
    title="Latent slerp",
    paper="Song et al., 2021, https://arxiv.org/abs/2010.02502, section 5.3",
    summary="Inverts both images and samples from the great circle between their noises.",
    when="A baseline, and a quick look: no training.",
    cost="2 evaluations a step to prepare, then 1 a step and frame; 2 with guidance.",
    guidance_scale=1.0,
)
def latent_slerp(
    task: MorphTask,
    *,
    inversion: Annotated[InversionName, Option("how the images are carried to noise")] = "ddim",
) -> MorphPath:
    """Prepares noise and embeddings between those of both images.

    With guidance the ends come back only by an inversion that corrects for it.
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
