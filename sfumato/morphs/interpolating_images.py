"""Interpolating between images (Wang and Golland, 2023), https://arxiv.org/abs/2307.12560: a tree of frames.

Nothing is inverted. Both images are noised to several levels with the same draws. The middle frame starts at the
noisiest level from the spherical mean of the two, and is denoised to the next level. There the frames at the quarters
start between their neighbours, all frames are denoised further, and so on.

With `candidates` above 1 the tree is the authors' ranked one (`ranked_tree.py`): every frame is the best of several, by
how well it fits the text `better` and how badly the text `worse`. The authors take 8, strengths of 0.3 to 0.55, and
CLIP.

Differs from the authors' code:

- Latents noised to a level are denoised from that level on. Theirs start one step lower and finish every level one step
  lower (`released`).
- Embeddings are those of the prompts, or tuned to the images by textual inversion (`text_iterations`); the authors tune
  both together with the negative one, under guidance, on jittered crops.
- Not offered: the pose that a ControlNet reads.
- All frames of a level are one batch.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sfumato.adaptation.textual_inversion import textual_inversion
from sfumato.adaptation.training import Draws
from sfumato.errors import UsageError
from sfumato.judges.encoders import ENCODER_HELP
from sfumato.models.base import Condition
from sfumato.morphs.denoiser import Denoiser
from sfumato.morphs.frame_tree import level_indices, tree
from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.ranked_tree import ranked_tree, text_score
from sfumato.morphs.task import MorphTask
from sfumato.options import Option


@morph_method(
    "interpolating-images",
    summary="Adds the same noise to both images, mixes them, and denoises a tree of frames, the middle one first.",
    when="The two images must stay exactly as they are, without training.",
    cost="With 17 frames about 10 evaluations for each step of the grid, 5 without guidance; 56 with 8 candidates.",
)
def interpolating_images(
    task: MorphTask,
    *,
    levels: Annotated[
        int, Option("levels of the tree, which has 2**levels + 1 frames, the two images included", low=1, high=8)
    ] = 4,
    min_strength: Annotated[
        float, Option("noise of the last frames of the tree, as share of the steps", low=0, high=1)
    ] = 0.25,
    max_strength: Annotated[
        float,
        Option(
            "noise of the first, the middle frame, as share of the steps; higher is freer of both images", low=0, high=1
        ),
    ] = 0.5,
    schedule_type: Annotated[
        Literal["linear", "convex", "concave"], Option("how the noise falls from max_strength to min_strength")
    ] = "linear",
    retroactive: Annotated[
        bool, Option("make earlier frames again between their new neighbours; has no effect with candidates above 1")
    ] = True,
    text_iterations: Annotated[
        int,
        Option("training steps that tune each prompt's embedding to its image; 0 uses the prompts as they are", low=0),
    ] = 0,
    text_rate: Annotated[float, Option("learning rate of these training steps", low=1e-8, high=1)] = 1e-4,
    released: Annotated[
        bool, Option("denoise from one step below the level of the added noise, as the authors' code does")
    ] = False,
    candidates: Annotated[
        int,
        Option(
            "candidates for the middle frame, of which the best is kept; one fewer a level, at least 3; 1: off", low=1
        ),
    ] = 1,
    better: Annotated[
        str, Option("with candidates: text that the best one fits well, such as 'a sharp photograph'")
    ] = "",
    worse: Annotated[
        str, Option("with candidates: text that the best one fits badly, such as 'blurred, distorted'; may be empty")
    ] = "",
    encoder: Annotated[str | None, Option(ENCODER_HELP)] = None,
) -> MorphPath:
    """Makes the whole tree; the frames of the path are its leaves, and no others.

    Raises:
        UsageError: The levels do not fit the steps, or there is no text or encoder to rank candidates by.
        ModelError: The encoder cannot be loaded.
    """
    if candidates > 1 and not better:
        raise UsageError(
            f"candidates={candidates} needs a text to rank them by: give better, such as better='a sharp photograph'"
        )
    steps, model, latents = task.num_inference_steps, task.model, task.ends.latents
    indices = level_indices(steps, levels, min_strength, max_strength, schedule_type)
    score = text_score(model, better, worse, encoder) if candidates > 1 else None
    shape = (levels, *latents.shape[1:])
    noise = torch.randn(shape, generator=task.generator, device=task.generator.device).to(latents)
    prompts = _tuned(task, text_iterations, text_rate) if text_iterations > 0 else task.condition
    timesteps = model.schedule.timesteps(steps, latent_size=(latents.shape[-2], latents.shape[-1]))
    denoise = Denoiser(model, prompts, task.negative, task.guidance_scale, timesteps)
    if score is None:
        frames = tree(denoise, latents, noise, indices, retroactive=retroactive, released=released, watch=task.watch)
    else:
        frames = ranked_tree(
            denoise, latents, indices, candidates=candidates, score=score, generator=task.generator, released=released,
            watch=task.watch,
        )  # fmt: skip
    weights = tuple(k / (len(frames) - 1) for k in range(len(frames)))
    drawn = dict(zip(weights, frames, strict=True))
    return MorphPath(lambda asked: torch.stack([drawn[weight] for weight in asked]), weights=weights)


def _tuned(task: MorphTask, iterations: int, rate: float) -> Condition:
    """The prompts' embeddings, tuned to the images."""
    draws = Draws.by(task.generator, shared=True)
    options = {"iterations": iterations, "rate": rate, "seed": draws.seed, "shared": True}
    return textual_inversion(
        task.model, task.ends.latents, task.condition, iterations=iterations, draws=draws, learning_rate=rate,
        slot=task.slot("textual-inversion", options), watch=task.watch.during("learning the embeddings"),
    ).condition  # fmt: skip
