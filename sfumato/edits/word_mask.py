"""A mask from words: where the model's cross-attention to them is high."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import AttentionControl
from sfumato.conditions.align import indicator
from sfumato.models.base import Model
from sfumato.models.schedules import add_noise
from sfumato.sampling.layout import Layout
from sfumato.watch import Watch


@torch.no_grad()
def mask_from_words(
    model: Model,
    clean: Tensor,
    prompt: str,
    words: Sequence[str],
    *,
    threshold: float = 0.4,
    draws: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Where the attention to the words is high, (1, 1, height, width) of the latents, 0 or 1.

    Args:
        model, clean, prompt, words, draws, generator: See `heat_of_words`.
        threshold: Share of the largest attention that counts as inside, in (0, 1).

    Raises:
        UsageError: A word is not in the prompt.
    """
    heat = heat_of_words(model, clean, prompt, words, draws=draws, generator=generator)
    low, high = heat.amin(), heat.amax()
    return ((heat - low) > threshold * (high - low)).float()


@torch.no_grad()
def heat_of_words(
    model: Model,
    clean: Tensor,
    prompt: str,
    words: Sequence[str],
    *,
    draws: int = 4,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """The attention to the words, (1, 1, height, width) of the latents.

    Mean cross-attention of the image noised to levels in the middle of the schedule, where layout is decided. Costs
    4 evaluations a draw.

    Args:
        model: Any model whose images look at text.
        clean: Latents of the image, (1, channels, height, width).
        prompt: What the image shows.
        words: Words or phrases of the prompt.
        draws: Noises to average over.
        generator: Of these noises.
        watch: Progress and cancellation, a step a draw.

    Raises:
        UsageError: A word is not in the prompt.
    """
    row = indicator(model.text, prompt, words)
    size = (clean.shape[-2], clean.shape[-1])
    maps = CrossAttentionMaps()
    control, condition = AttentionControl([maps]), model.encode_prompt(prompt)
    steps = model.schedule.steps(20, latent_size=size)[6:14:2]
    with control.installed(model, Layout(("cond",), ("source",), 1, size)):
        for _ in (watch or Watch()).over(range(draws)):
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            for step in steps:
                control.at_step(step)
                model.predict(add_noise(clean, noise, step.level), step.time, condition)
    heat = maps.average[0, ..., : len(row)] @ row.to(maps.average)  # (1, height, width)
    return F.interpolate(heat[None], size=size, mode="bilinear")
