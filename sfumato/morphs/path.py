"""What every morph is: two end images, and a pure function from a weight to a frame between them.

Methods differ only in this function. The spacings (`spacings/`) choose the weights of the frames; both ask the same
`Frames`, so that no frame is drawn twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import SamplingError, UsageError
from sfumato.models.base import Model
from sfumato.watch import Watch

Draw = Callable[[Sequence[float]], Tensor]


@dataclass(frozen=True)
class Ends:
    """The two images of a morph, as a method sees them.

    Attributes:
        pixels: (2, 3, H, W) in [-1, 1].
        latents: Their clean latents, (2, channels, height, width).
        prompts: What each shows.
        image_digests: SHA-256 of each one's fitted pixels; keys what is kept between runs.
    """

    pixels: Tensor
    latents: Tensor
    prompts: tuple[str, str]
    image_digests: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class MorphPath:
    """A morph as a function of its weight: the result of a morphing method.

    Attributes:
        draw: From morph weights in [0, 1] to frames, (frame, channels, height, width): clean latents, or pixels in
            [-1, 1] where `in_pixels`. A frame depends on its own weight alone, whatever it is drawn together with.
        in_pixels: Whether `draw` gives pixels.
        weights: The only weights that it can draw, ascending, where it cannot draw any (a tree of frames); else None.
        notes: What the user should know (a rank that was clamped, noise that is far from normal).
        record: What the method found on its way, for the recipe: a rank, losses; JSON can say it.
    """

    draw: Draw
    in_pixels: bool = False
    weights: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    record: dict[str, object] | None = None


class Frames:
    """The frames of a path by weight, decoded, each drawn once.

    Attributes:
        drawn: Weights drawn so far, in order.
    """

    def __init__(
        self, path: MorphPath, decode: Callable[[Tensor], Tensor], *, batch: int = 8, watch: Watch | None = None
    ) -> None:
        """Takes a path and how its latents become pixels.

        Args:
            path: What draws.
            decode: Clean latents to pixels, (frame, 3, H, W) in [-1, 1].
            batch: Most frames drawn in one call.
            watch: Asked for cancellation before every batch.
        """
        self.path, self.decode, self.batch, self.watch = path, decode, batch, watch or Watch()
        self.drawn: list[float] = []
        self._kept: dict[float, Tensor] = {}

    def __call__(self, weight: float) -> Tensor:
        """The frame at a weight in [0, 1], pixels (1, 3, H, W) in [-1, 1]."""
        return self.at([weight])

    def at(self, weights: Sequence[float]) -> Tensor:
        """Frames at several weights, pixels (frame, 3, H, W) in [-1, 1]; the missing ones are drawn together.

        Raises:
            UsageError: A weight is outside [0, 1], or the path cannot draw it.
            SamplingError: A frame holds NaN or infinity.
        """
        missing = [weight for weight in dict.fromkeys(map(float, weights)) if weight not in self._kept]
        for weight in missing:
            if not 0.0 <= weight <= 1.0:
                raise UsageError(f"a morph weight must be in [0, 1], got {weight:g}")
            if self.path.weights is not None and weight not in self.path.weights:
                raise UsageError(f"this morph has frames at {len(self.path.weights)} weights only, none at {weight:g}")
        for start in range(0, len(missing), self.batch):
            chunk = missing[start : start + self.batch]
            self.watch.check()
            with torch.no_grad():
                drawn = self.path.draw(chunk)
                pixels = drawn if self.path.in_pixels else self.decode(drawn)
            if not bool(pixels.isfinite().all()):
                where = ", ".join(f"{weight:g}" for weight in chunk)
                raise SamplingError(f"a frame at {where} is NaN or infinite: the model may have broken down, try fp32")
            self._kept.update(zip(chunk, pixels.clamp(-1.0, 1.0).split(1), strict=True))
            self.drawn += chunk
        return torch.cat([self._kept[float(weight)] for weight in weights])


def adaptation_key(model: Model, ends: Ends, part: str, options: Mapping[str, Any]) -> str:
    """A name for an adaptation, different wherever its result may differ.

    Args:
        model: Its revision and precision count.
        ends: Images (their digests, or their latents where there are none) and prompts count.
        part: What is adapted: "textual-inversion", "lora".
        options: Whatever else decides the result, the seed of the draws among it; JSON can say it.

    Returns:
        `<part>-<24 hexadecimal digits>`.
    """
    digests = list(ends.image_digests)
    if not all(digests):
        stored = ends.latents.detach().float().cpu().contiguous()
        digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in stored]
    content = {
        "part": part,
        "model": model.revision,
        "dtype": str(model.dtype),
        "pictures": digests,
        "size": list(ends.latents.shape),
        "prompts": list(ends.prompts),
        "options": dict(options),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{part}-{digest[:24]}"
