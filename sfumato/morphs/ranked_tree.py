"""The ranked tree of Interpolating between images (Wang and Golland, 2023), https://arxiv.org/abs/2307.12560.

Here frames share no noise: each is made by itself from its finished neighbours, several times, and a dual encoder
chooses the best. `frame_tree.py` has the plain tree, `interpolating_images.py` the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.judges.encoders import dual_encoder
from sfumato.metrics.text_agreement import text_agreement
from sfumato.models.base import Model
from sfumato.models.prompt_syntax import plain_text
from sfumato.models.schedules import add_noise
from sfumato.morphs.denoiser import Denoiser
from sfumato.morphs.slerp import slerp
from sfumato.watch import Watch

FEWEST_CANDIDATES = 3

Score = Callable[[Tensor], Tensor]
"""Pixels, (candidate, 3, H, W) in [-1, 1], to numbers, (candidate,); the largest is kept."""


def text_score(model: Model, better: str, worse: str, encoder: str | None) -> Score:
    """How much more images look like one text than like another: a difference of two cosines.

    Args:
        model: Whose images are judged.
        better, worse: The texts; without `worse` the first cosine alone.
        encoder: See `sfumato.judges.encoders.dual_encoder`.

    Raises:
        UsageError, ModelError: There is no such encoder.
    """
    judge = dual_encoder(model, encoder)
    texts = judge.encode_text([plain_text(text) for text in (better, worse) if text])

    def score(pixels: Tensor) -> Tensor:
        images = judge.encode_image(pixels)
        likes = text_agreement(images[:, None], texts.to(images)[None])
        return likes[:, 0] - (likes[:, 1] if worse else 0.0)

    return score


def ranked_tree(
    denoise: Denoiser,
    latents: Tensor,
    levels: Sequence[int],
    *,
    candidates: int,
    score: Score,
    generator: torch.Generator,
    released: bool = False,
    watch: Watch | None = None,
) -> Tensor:
    """Makes all frames between two images, the middle one first, each the best of several.

    A candidate is the great-circle mean of both neighbours' clean latents under one noise, denoised to the end. Every
    further level tries one candidate fewer, three at least.

    Args:
        denoise: Steps of the model.
        latents: Clean latents of both images, (2, channels, height, width).
        levels: Positions on the grid, cleanest first, see `level_indices`.
        candidates: Of the first frame.
        score: What the best has most of.
        generator: Draws a noise for every candidate.
        released: Start two steps below the level that was noised to where there are two, as the authors' code does.
        watch: Progress and cancellation; a turn is one frame.

    Returns:
        Clean latents, the images' own at both ends, (frames, channels, height, width).
    """
    count = 2 ** (len(levels) - 1)
    frames = dict(zip((0, count), latents.to(denoise.model.device), strict=True))
    places = [
        (depth, 2**level, k)
        for depth, level in enumerate(reversed(range(len(levels) - 1)))
        for k in range(2**level, count, 2 ** (level + 1))
    ]
    for depth, apart, k in (watch or Watch()).during("growing frames").over(places):
        position = levels[-1 - depth]
        tried = max(candidates - depth, min(candidates, FEWEST_CANDIDATES))
        noise = torch.randn((tried, *latents.shape[1:]), generator=generator, device=generator.device).to(frames[0])
        level = denoise.steps[position].level
        first, second = (add_noise(frames[near], noise, level) for near in (k - apart, k + apart))
        batch, condition = slerp(first, second, 0.5, dims=(-3, -2, -1)), denoise.condition([k / count] * tried)
        for place in range(max(position - 2 * released, 0), -1, -1):
            batch = denoise(batch, place, condition)
        with torch.no_grad():
            frames[k] = batch[int(score(denoise.model.decode_latents(batch)).argmax())]
    return torch.stack([frames[k] for k in range(count + 1)])
