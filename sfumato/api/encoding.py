"""From an image to latents that decode to it: those of the encoder, refined by optimisation where asked for.

An autoencoder's encoder gives latents that decode to something near the image. A few steps of gradient descent on the
latents themselves bring the decoded image nearer (decoder inversion; Zhu et al., 2016,
https://arxiv.org/abs/1609.03552, start such a descent from an encoder, too).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sfumato.models.base import Model
from sfumato.watch import Watch

LEARNING_RATE = 0.02
"""Of Adam, in scaled latents, whose entries are about 1."""


def encoded(model: Model, pixels: Tensor, *, encode_steps: int = 0, watch: Watch | None = None) -> Tensor:
    """Latents of images, each found by itself: the same whatever it is batched with, in the memory of one.

    Args:
        model: Any model.
        pixels: (image, 3, H, W) in [-1, 1].
        encode_steps: Updates of the latents towards a smaller mean squared error of the decoded pixels, at least 0;
            each costs a pass through the decoder and back. The best latents on the way are kept.
        watch: Progress and cancellation.

    Returns:
        (image, channels, height, width), float32.
    """
    rounds = (watch or Watch()).over(range(len(pixels) * (encode_steps + 1)))
    found = []
    for image in pixels:
        next(rounds)
        latents = model.encode_image(image[None])
        found.append(_refined(model, latents, image[None].to(latents), encode_steps, rounds))
    for _ in rounds:  # the last one is done
        pass
    return torch.cat(found)


def _refined(model: Model, start: Tensor, pixels: Tensor, steps: int, rounds: Iterator[int]) -> Tensor:
    """One image's latents with the smallest loss on the way."""
    if steps == 0:
        return start
    best, least = start, float("inf")
    latents = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=LEARNING_RATE)
    for left in reversed(range(steps + 1)):
        with torch.enable_grad():
            loss = (model.decode_latents(latents) - pixels).square().mean()
        if (reached := loss.item()) < least:
            best, least = latents.detach().clone(), reached
        if left:
            next(rounds)
            (latents.grad,) = torch.autograd.grad(loss, latents)
            optimizer.step()
    return best
