"""What a teacher leaves alone, put back into its pairs.

A teacher's result comes out of its autoencoder, so that every pixel differs a little from the source, and a student
would learn to redraw, and so to blur, what it should copy. Where the result differs from the autoencoder's own
reconstruction of the source by no more than a bound, the edit changed nothing, and the pair gets the source's pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.distillation.pairs import Pairs, as_bytes
from sfumato.models.base import Model
from sfumato.watch import Watch

NEAR, AROUND = 5, 9
"""Sides in pixels of the squares that differences are averaged over, and that a change is widened by."""
AT_ONCE = 8


def settled(pairs: Pairs, model: Model, bound: float, watch: Watch) -> Pairs:
    """Pairs whose targets are the sources where the teacher changed nothing.

    Args:
        pairs: As the teacher made them.
        model: The teacher, whose autoencoder reconstructs the sources.
        bound: Largest difference, in channel values of [-1, 1] and in the mean of a small square, that is no change;
            0: all pairs as they are.
        watch: Progress and cancellation.
    """
    if bound == 0.0:
        return pairs
    starts = range(0, len(pairs), AT_ONCE)
    parts = []
    for start in watch.during("comparing").over(starts):
        sources, targets = pairs.pixels(range(start, min(start + AT_ONCE, len(pairs))))
        changed = changed_where(targets, reconstructed(model, sources), bound)
        parts.append(as_bytes(torch.lerp(sources, targets, changed)))
    return Pairs(pairs.names, pairs.sources, torch.cat(parts))


def changed_where(targets: Tensor, reconstructions: Tensor, bound: float) -> Tensor:
    """Where an edit changed an image, with a soft edge: (batch, 1, height, width) in [0, 1].

    Args:
        targets: Its results, (batch, 3, height, width) in [-1, 1].
        reconstructions: What the images are without the edit.
        bound: See `settled`.
    """
    differs = (targets - reconstructions).abs().amax(dim=1, keepdim=True)
    changed = (_mean_near(differs) > bound).float()
    return _mean_near(F.max_pool2d(changed, AROUND, stride=1, padding=AROUND // 2))


def _mean_near(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, NEAR, stride=1, padding=NEAR // 2, count_include_pad=False)


@torch.no_grad()
def reconstructed(model: Model, pixels: Tensor) -> Tensor:
    """What the model's autoencoder makes of pixels in [-1, 1], (batch, 3, height, width) of any size."""
    height, width = pixels.shape[2:]
    multiple = model.size_multiple
    padded = F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    decoded = model.decode_latents(model.encode_image(padded.to(model.device)))
    return decoded[..., :height, :width].float().clamp(-1.0, 1.0).to(pixels.device)
