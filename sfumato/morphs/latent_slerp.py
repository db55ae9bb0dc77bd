"""Plain latent slerp: both pictures inverted, their noises joined by a great circle, every point of it sampled.

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

import torch
from torch import Tensor

from sfumato.adaptation.store import Store
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.between_inversions import InversionName, between, inverted_ends, mixed_condition
from sfumato.morphs.path import Ends, MorphPath
from sfumato.registry import Option, morph_method
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.watch import Watch


@morph_method(
    "slerp",
    title="Latent slerp",
    paper="Song et al., 2021, https://arxiv.org/abs/2010.02502, section 5.3",
    summary="Inverts both pictures and samples from the great circle between their noises.",
    when="A baseline, and a quick look: no training.",
    cost="2 evaluations a step to prepare, then 1 a step and frame; 2 with guidance.",
    guidance_scale=1.0,
)
def latent_slerp(
    model: Model,
    ends: Ends,
    *,
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    num_inference_steps: int = 50,
    distance: Distance,
    generator: torch.Generator,
    store: Store | None = None,
    watch: Watch | None = None,
    inversion: Annotated[InversionName, Option("how the pictures are carried to noise")] = "ddim",
) -> MorphPath:
    """Prepares noise and embeddings between those of both pictures.

    Args:
        model: Any model.
        ends: The two pictures.
        negative_prompt: What guidance leads away from.
        guidance_scale: Of every frame; above 1 the ends come back only with an inversion that corrects for it.
        num_inference_steps: Steps of the inversion and of every frame.
        distance, store: Not used.
        generator: Draws what a stochastic inversion draws.
        watch: Progress and cancellation.
        inversion: see its `Option`.
    """
    found, prompts = inverted_ends(
        model, ends, inversion, negative_prompt=negative_prompt, guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps, generator=generator, watch=watch,
    )  # fmt: skip
    negative = model.encode_prompt(negative_prompt)

    def draw(weights: Sequence[float]) -> Tensor:
        frames = between(found, weights)
        branch = Branch(mixed_condition(prompts, weights), negative, guidance_scale)
        latents = sample(
            model, frames.noise, {"frame": branch}, timesteps=frames.timesteps, start_index=frames.start_index,
            eta=frames.eta, replay=frames, watch=_quiet(watch),
        )  # fmt: skip
        return latents[0]

    return MorphPath(draw)


def _quiet(watch: Watch | None) -> Watch:
    """The watch of a frame's own steps: it may be cancelled; its progress is that of the frames."""
    return Watch(cancelled=None if watch is None else watch.cancelled)
