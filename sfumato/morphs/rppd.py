"""Relative perceptual path diversity (rPPD) of two images under the unadapted model, and the adapter's rank from it.

Source: Yang et al., 2024 (IMPUS), https://arxiv.org/abs/2311.06792, section 4.2, and the authors' code. Where the steps
of a path add up to much more than the distance from end to end, the path shows other things than the two images, and
the adapter needs a higher rank. The arithmetic is in `sfumato.metrics.morph`; here the path is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from sfumato.adaptation.store import Slot
from sfumato.conditions.mixing import mixed_condition
from sfumato.metrics.distance import Distance
from sfumato.metrics.morph import lora_rank, relative_perceptual_path_diversity
from sfumato.models.base import Condition, Model
from sfumato.morphs.slerp import slerp
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.watch import Watch

Rule = Literal["released", "corrected"]
POINTS = 10
JUMP = 1.0 / (POINTS - 1)
"""What the jump at the start of the released sum adds to rPPD where the path starts close to its end."""


@dataclass(frozen=True)
class PathDiversity:
    """What was drawn and measured.

    Attributes:
        reconstructions: Of image 1 and image 2, clean latents, (2, channels, height, width).
        path: Frames at b = 0.1, 0.2, ..., 1 (b = 1 is image 1), clean latents, (10, channels, height, width).
        distances: Of reconstruction 1 to the path's start, then of the path's neighbours, (10,).
        direct_distance: Of the two reconstructions.
        variances: Of the two noises; near 1 where the inversion went well.
    """

    reconstructions: Tensor
    path: Tensor
    distances: Tensor
    direct_distance: float
    variances: tuple[float, float]

    def rppd(self, rule: Rule = "released") -> float:
        """rPPD with or without the jump that the authors' code counts; 0 where the reconstructions are equal."""
        if self.direct_distance == 0.0:
            return 0.0
        return relative_perceptual_path_diversity(self.distances, self.direct_distance, released=rule == "released")

    def rank(self, rule: Rule = "released") -> int:
        """The rank that an adapter should have; the corrected rule gives back what the jump adds on average.

        The constants of the rule were chosen with the jump counted: without it, they would ask for a rank four times
        too small throughout.
        """
        value = self.rppd(rule) + (JUMP if rule == "corrected" else 0.0)
        return lora_rank(min(value, MOST), self.variances)

    def keep(self, slot: Slot) -> None:
        """Puts it where `kept` finds it."""
        tensors = {"reconstructions": self.reconstructions, "path": self.path, "distances": self.distances}
        slot.save(tensors, {"direct_distance": self.direct_distance, "variances": list(self.variances)})

    @classmethod
    def kept(cls, slot: Slot) -> PathDiversity | None:
        """What `keep` put there, or None."""
        stored = slot.load()
        if stored is None:
            return None
        tensors, fields = stored
        first, second = fields["variances"]
        return cls(**tensors, direct_distance=fields["direct_distance"], variances=(first, second))


MOST = 1.0
"""Largest rPPD that the rule is asked about: rank 4096, more than any layer allows."""


class Clamped:
    """A distance of decoded images, which may pass [-1, 1] a little where distances take no others."""

    def __init__(self, distance: Distance) -> None:
        self.distance, self.name = distance, distance.name

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return self.distance(first.clamp(-1.0, 1.0), second.clamp(-1.0, 1.0))


@torch.no_grad()
def path_diversity(
    model: Model,
    noise: Tensor,
    condition: Condition,
    distance: Distance,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 3.0,
    end_guidance_scale: float = 1.5,
    num_inference_steps: int = 16,
    watch: Watch | None = None,
) -> PathDiversity:
    """Draws the path between two inverted images on the model as it is, and measures it.

    Costs 12 x steps x 2 network evaluations.

    Args:
        model: Without adapters.
        noise: Inverted noise of the two images, (2, channels, height, width).
        condition: Their embeddings, two rows.
        distance: Of decoded images.
        negative: The negative prompt; None: the empty prompt.
        guidance_scale: Of the path and of reconstruction 2.
        end_guidance_scale: Of reconstruction 1, as in the authors' code.
        num_inference_steps: Of every frame.
        watch: Progress (in frames) and cancellation.
    """
    watch = (watch or Watch()).during("measuring the path")
    weights = [1.0 - k / POINTS for k in range(1, POINTS + 1)]  # b = 0.1 ... 1
    plan = [(0.0, end_guidance_scale), (1.0, guidance_scale), *((weight, guidance_scale) for weight in weights)]
    size = max(1, 2 * 64 * 64 // (noise.shape[-1] * noise.shape[-2]))
    parts = [plan[start : start + size] for start in range(0, len(plan), size)]
    frames = torch.cat(
        [
            _frames(model, noise, condition, negative, part, num_inference_steps, Watch(cancelled=watch.cancelled))
            for part in watch.over(parts)
        ]
    )
    decoded = torch.cat([model.decode_latents(frame) for frame in frames.split(1)])
    steps = [distance(decoded[[a]], decoded[[b]]) for a, b in pairwise([0, *range(2, len(plan))])]
    first, second = noise.double().flatten(1).var(dim=1).tolist()
    return PathDiversity(
        reconstructions=frames[:2],
        path=frames[2:],
        distances=torch.cat(steps).cpu(),
        direct_distance=float(distance(decoded[:1], decoded[1:2])),
        variances=(first, second),
    )


def _frames(
    model: Model,
    noise: Tensor,
    condition: Condition,
    negative: Condition | None,
    plan: Sequence[tuple[float, float]],
    num_inference_steps: int,
    watch: Watch,
) -> Tensor:
    """Frames at (weight, guidance), (frame, channels, height, width)."""
    weights = [weight for weight, _ in plan]
    conditions = mixed_condition(condition, weights)
    branches = {
        f"frame-{k}": Branch(conditions[[k]], negative, guidance_scale) for k, (_, guidance_scale) in enumerate(plan)
    }
    start = torch.stack([slerp(noise[:1], noise[1:], weight) for weight in weights])
    return sample(model, start, branches, num_inference_steps=num_inference_steps, watch=watch)[:, 0]
