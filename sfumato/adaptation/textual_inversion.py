"""Textual inversion of an image: the text embedding under which the model generates it.

Source: Gal et al., 2022, https://arxiv.org/abs/2208.01618; as IMPUS uses it (Yang et al., 2024,
https://arxiv.org/abs/2311.06792, section 4.1): what is learned is the text encoder's whole output, every position of
it, and not a new word. `placeholder` narrows it to one word's positions, nearer to the original.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.adaptation.store import Slot
from sfumato.adaptation.training import Denoising, Draws, fit, leaves
from sfumato.conditions.align import token_indices, words_of
from sfumato.errors import UsageError
from sfumato.models.base import Condition, Model
from sfumato.watch import Watch


@dataclass(frozen=True)
class InvertedText:
    """Learned embeddings.

    Attributes:
        condition: One row an image; only `text` differs from where it started; extras are not learned.
        losses: Of each image before each update, (iteration, image).
    """

    condition: Condition
    losses: Tensor


def textual_inversion(
    model: Model,
    latents: Tensor,
    condition: Condition,
    *,
    iterations: int,
    draws: Draws,
    learning_rate: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    rate: Callable[[int], float] | None = None,
    learned: Tensor | None = None,
    slot: Slot | None = None,
    watch: Watch | None = None,
) -> InvertedText:
    """Learns an embedding for each image with Adam, all images in one go, each as if alone.

    Costs iterations x images x draws network evaluations with a backward pass; none for a run that the slot holds
    complete.

    Args:
        model: Stays frozen.
        latents: Clean latents, (image, channels, height, width).
        condition: Where learning starts; one row, or one an image.
        iterations: 0 gives the start back.
        draws: Timesteps and noises.
        learning_rate, betas: Of Adam.
        rate: Learning rate of each iteration, instead of a constant one.
        learned: 1 at the positions that are learned, (tokens,), see `positions`; None: all.
        slot: Where the run is kept and resumed.
        watch: Progress and cancellation.

    Raises:
        SamplingError: The loss broke down.
        Cancelled: The watch asked to stop.
    """
    start = condition.expand(len(latents))
    parameters = leaves({"embeds": start.text}, model)
    embeds = parameters["embeds"]
    if learned is not None:
        share = torch.zeros(embeds.shape[1]).index_fill(0, learned.nonzero().flatten(), 1.0).to(embeds)
        embeds.register_hook(lambda gradient: gradient * share[:, None])

    def condition_of(images: list[int]) -> Condition:
        return start[images].with_text(embeds[images])

    optimizer = torch.optim.Adam([embeds], lr=learning_rate, betas=betas)
    loss = Denoising(model, latents, draws)
    losses = fit(parameters, loss, condition_of, optimizer, iterations, rate=rate, slot=slot, watch=watch)
    return InvertedText(start.with_text(embeds.detach()), losses)


def positions(model: Model, prompt: str, placeholder: str) -> Tensor:
    """1 at the tokens of a placeholder in its prompt, up to the last of them, (tokens,).

    Raises:
        UsageError: The prompt does not have it.
    """
    try:
        at = token_indices(model.text, prompt, placeholder)
    except UsageError as error:
        raise UsageError(
            f"the prompt {prompt!r} lacks the placeholder {placeholder!r}: write it where the learned word should be"
        ) from error
    row = torch.zeros(max(at) + 1)
    row[at] = 1.0
    return row


def common_prompt_of(first: str, second: str) -> str:
    """One prompt for two images: what both say, and where they differ what the one says, then the other.

    "an image of a cat" and "an image of a dog" give "an image of a cat dog", IMPUS's own example.
    """
    a, b = words_of(first), words_of(second)
    words: list[str] = []
    for kind, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        words += a[a1:a2] if kind == "equal" else [*a[a1:a2], *b[b1:b2]]
    return " ".join(words)
