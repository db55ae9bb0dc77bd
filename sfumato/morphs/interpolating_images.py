"""Interpolating between images (Wang and Golland, 2023), https://arxiv.org/abs/2307.12560: frames grow as a tree.

Nothing is inverted. Both pictures are noised with the same draws, level upon level; the middle frame starts from the
noisiest level as the great-circle mean of the two, and is denoised to the next level; the quarters start there between
their neighbours, all frames are denoised on, and so forth. So far frames share much, and near ones more.

Differs from the authors' code:

- Latents noised to a level are denoised from that level on. Theirs start one step lower and finish every level one step
  lower (`released`).
- Embeddings are told as they are, or tuned to the pictures by plain textual inversion (`text_iterations`); the authors
  tune both together with the negative one, under guidance, on jittered crops.
- Not offered: the pose that a ControlNet reads.
- All frames of a level are one batch.

With `candidates` above 1 the tree is the authors' ranked one (`ranked.py`): every frame the best of several, by how
well it fits the text `better` and how badly `worse`. They take 8, strengths of 0.3 to 0.55, and CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.adaptation.store import Store
from sfumato.adaptation.textual_inversion import textual_inversion
from sfumato.adaptation.training import Draws
from sfumato.errors import UsageError
from sfumato.judges.encoders import ENCODER_HELP
from sfumato.metrics.distance import Distance
from sfumato.models.base import Condition, Model
from sfumato.morphs.denoiser import Denoiser
from sfumato.morphs.path import Ends, MorphPath, adaptation_key
from sfumato.morphs.ranked_tree import ranked_tree, text_score
from sfumato.morphs.slerp import slerp
from sfumato.registry import Option, morph_method
from sfumato.watch import Watch


@morph_method(
    "interpolating-images",
    title="Interpolating between images",
    paper="Wang and Golland, 2023, https://arxiv.org/abs/2307.12560",
    summary="Noises both pictures alike, mixes them, and denoises a tree of frames, the middle one first.",
    when="The ends must stay exactly what they are, and nothing may be trained.",
    cost="With 17 frames about 10 evaluations for each step of the grid, 5 without guidance; 56 with 8 candidates.",
)
def interpolating_images(
    model: Model,
    ends: Ends,
    *,
    negative_prompt: str = "",
    guidance_scale: float = 7.5,
    num_inference_steps: int = 250,
    distance: Distance,
    generator: torch.Generator,
    store: Store | None = None,
    watch: Watch | None = None,
    levels: Annotated[int, Option("levels of the tree: 2**levels + 1 frames", low=1, high=8)] = 4,
    min_strength: Annotated[
        float, Option("noise under the last frames to be made, as a share of the steps", low=0, high=1)
    ] = 0.25,
    max_strength: Annotated[
        float, Option("noise under the middle frame, the first, as a share of the steps", low=0, high=1)
    ] = 0.5,
    schedule_type: Annotated[
        Literal["linear", "convex", "concave"], Option("how the levels lie between the two shares")
    ] = "linear",
    retroactive: Annotated[
        bool, Option("make older frames anew between their new neighbours; a ranked tree never does")
    ] = True,
    text_iterations: Annotated[
        int, Option("steps of tuning each prompt's embedding to its picture; 0 tells the prompts as they are", low=0)
    ] = 0,
    text_rate: Annotated[float, Option("learning rate of that tuning", low=1e-8, high=1)] = 1e-4,
    released: Annotated[
        bool, Option("denoise from one step below the level that was noised to, as the authors' code does")
    ] = False,
    candidates: Annotated[
        int, Option("make each frame so often and keep the best; one fewer at each further level, but three", low=1)
    ] = 1,
    better: Annotated[str, Option("the text that the best fits well: 'a sharp photograph'")] = "",
    worse: Annotated[str, Option("the text that it fits badly: 'blurred, distorted'; empty: not asked")] = "",
    encoder: Annotated[str | None, Option(ENCODER_HELP)] = None,
) -> MorphPath:
    """Makes the whole tree; the frames of the path are its leaves, and no others.

    Args:
        model: Any model.
        ends: The two pictures.
        negative_prompt: What guidance leads away from.
        guidance_scale: Of all frames.
        num_inference_steps: Steps of the whole grid, of which the share `max_strength` is walked.
        distance: Not used.
        store: Keeps tuned embeddings.
        generator: Draws one noise a level or candidate, and what tuning draws.
        watch: Progress and cancellation.
        levels: and all others: see their `Option`.

    Raises:
        UsageError: The levels do not fit the steps, or there is no text or encoder to rank candidates by.
        ModelError: The encoder cannot be loaded.
    """
    if candidates > 1 and not better:
        raise UsageError(f"say what the best of {candidates} candidates looks like: better='a sharp photograph', say")
    schedule = level_indices(num_inference_steps, levels, min_strength, max_strength, schedule_type)
    score = text_score(model, better, worse, encoder) if candidates > 1 else None
    shape = (levels, *ends.latents.shape[1:])
    noise = torch.randn(shape, generator=generator, device=generator.device).to(ends.latents)
    prompts = model.encode_prompt(list(ends.prompts))
    if text_iterations > 0:
        prompts = _tuned(model, ends, prompts, text_iterations, text_rate, generator, store, watch)
    negative, timesteps = model.encode_prompt(negative_prompt), model.schedule.timesteps(num_inference_steps)
    if score is None:
        latents = tree(
            model, ends.latents, prompts, noise, schedule, negative=negative, guidance_scale=guidance_scale,
            timesteps=timesteps, retroactive=retroactive, released=released, watch=watch,
        )  # fmt: skip
    else:
        latents = ranked_tree(
            Denoiser(model, prompts, negative, guidance_scale, timesteps), ends.latents, schedule,
            candidates=candidates, score=score, generator=generator, released=released, watch=watch,
        )  # fmt: skip
    weights = tuple(k / (len(latents) - 1) for k in range(len(latents)))
    drawn = dict(zip(weights, latents, strict=True))
    return MorphPath(lambda asked: torch.stack([drawn[weight] for weight in asked]), weights=weights)


def _tuned(
    model: Model, ends: Ends, prompts: Condition, iterations: int, rate: float, generator: torch.Generator,
    store: Store | None, watch: Watch | None,
) -> Condition:  # fmt: skip
    """The prompts' embeddings, tuned to the pictures."""
    draws = Draws.by(generator, shared=True)
    options = {"iterations": iterations, "rate": rate, "seed": draws.seed, "shared": True}
    slot = None if store is None else store.slot(adaptation_key(model, ends, "textual-inversion", options))
    found = textual_inversion(
        model, ends.latents, prompts, iterations=iterations, draws=draws, learning_rate=rate, slot=slot,
        watch=(watch or Watch()).during("learning the embeddings"),
    )  # fmt: skip
    return found.condition


def level_indices(steps: int, levels: int, low: float, high: float, kind: str = "linear") -> list[int]:
    """Positions on the grid, cleanest first, of the noise levels: 0 for the clean picture, then one a level.

    Raises:
        UsageError: Two levels fall on one step.
    """
    power = {"linear": 1.0, "convex": 2.0, "concave": 0.5}[kind]
    shares = [low + (high - low) * (k / max(levels - 1, 1)) ** power for k in range(levels)] if levels > 1 else [high]
    found = [0, *(min(round(share * steps), steps - 1) for share in shares)]
    if sorted(set(found)) != found:
        raise UsageError(
            f"{levels} levels between strengths {low:g} and {high:g} of {steps} steps fall on one another ({found}):"
            " use more steps, fewer levels, or move the strengths apart"
        )
    return found


def tree(
    model: Model,
    latents: Tensor,
    prompts: Condition,
    noise: Tensor,
    levels: Sequence[int],
    *,
    negative: Condition,
    guidance_scale: float,
    timesteps: Sequence[int],
    retroactive: bool = True,
    released: bool = False,
    watch: Watch | None = None,
) -> Tensor:
    """Grows all frames between two pictures.

    Args:
        model: Any model.
        latents: Clean latents of both pictures, (2, channels, height, width).
        prompts: What they show, two rows.
        noise: A draw a level, (level, channels, height, width) for both pictures alike, or (level, 2, ...).
        levels: Positions on the grid, cleanest first, see `level_indices`.
        negative: What guidance leads away from, one row.
        guidance_scale: Of all frames.
        timesteps: The grid, noisiest first.
        retroactive: Make older frames anew, at the second and third level.
        released: Start and end every level one step lower.
        watch: Progress and cancellation.

    Returns:
        Clean latents, the pictures' own at both ends, (frames, channels, height, width).
    """
    latents = latents.to(model.device)
    denoise = Denoiser(model, prompts, negative, guidance_scale, timesteps)
    stacks = noise_stacks(latents, noise, [denoise.steps[k].alpha_bar for k in levels[1:]])
    count = 2 ** (len(levels) - 1)
    ladder = [range(high - released, low - released, -1) for low, high in pairwise(levels)]
    ladder[0] = range(levels[1] - released, -1, -1)  # the lowest level ends at the clean latents
    turns = iter((watch or Watch()).during("growing frames").over([k for walk in ladder[::-1] for k in walk]))

    frames: dict[int, Tensor] = {}
    for level, walk in reversed(list(enumerate(ladder))):
        frames[0], frames[count] = stacks[level + 1]
        apart, depth = 2**level, len(ladder) - level
        for k in range(apart, count, 2 * apart):
            frames[k] = slerp(frames[k - apart], frames[k + apart], 0.5)
        for k, near in _made_anew(count, depth) if retroactive else ():
            frames[k] = slerp(frames[k - near], frames[k + near], 0.5)
        inner = list(range(apart, count, apart))
        told = denoise.told([k / count for k in inner])
        batch = torch.stack([frames[k] for k in inner])
        for _ in walk:
            batch = denoise(batch, next(turns), told)
        frames.update(zip(inner, batch, strict=True))
    next(turns, None)  # reports the last step
    frames[0], frames[count] = latents
    return torch.stack([frames[k] for k in range(count + 1)])


def noise_stacks(latents: Tensor, noise: Tensor, alpha_bars: Sequence[float]) -> Tensor:
    r"""Clean latents, noised level upon level, (1 + level, image, channels, height, width).

    .. math:: x_k = \frac{a_k}{a_{k-1}} x_{k-1} + \sqrt{s_k^2 - (s_{k-1} a_k / a_{k-1})^2}\,\epsilon_k, \qquad
              a = \sqrt{\bar\alpha},\ s = \sqrt{1 - \bar\alpha}

    Args:
        latents: (image, channels, height, width).
        noise: (level, channels, height, width), or with an axis of images after the first.
        alpha_bars: Levels, falling.
    """
    stack, before = [latents], 1.0
    for draw, level in zip(noise.to(latents), alpha_bars, strict=True):
        kept = sqrt(level / before)
        stack.append(kept * stack[-1] + sqrt(1.0 - level - (1.0 - before) * kept**2) * draw)
        before = level
    return torch.stack(stack)


def _made_anew(count: int, depth: int) -> list[tuple[int, int]]:
    """Older frames that a level makes anew, and how far away their neighbours are: at the second and third level."""
    if depth == 2:
        return [(count // 2, count // 4)]
    if depth == 3:
        return [(k * count // 4, count // 8) for k in (1, 2, 3)]
    return []
