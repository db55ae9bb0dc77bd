"""Paths whose frame at a weight is the weight itself, looked at through a distance of points on a known curve."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.morphs.path import Frames, MorphPath

Points = Callable[[Tensor, Tensor], Tensor]


class WeightFrames(Frames):
    """Frames that hold their own weight, in float64.

    Attributes:
        calls: Weights that were drawn together, call by call.
    """

    def __init__(self, weights: tuple[float, ...] | None = None) -> None:
        self.calls: list[list[float]] = []

        def draw(asked: Sequence[float]) -> Tensor:
            self.calls.append(list(asked))
            return torch.tensor(asked, dtype=torch.float64).view(-1, 1, 1, 1)

        super().__init__(MorphPath(draw, in_pixels=True, weights=weights), lambda latents: latents)


def euclidean(first: Tensor, second: Tensor) -> Tensor:
    """Of points (batch, dimension), (batch,)."""
    return (first - second).norm(dim=-1)


class CurveDistance:
    """The distance of the points of a curve at the weights that two frames hold, to a power."""

    name = "synthetic"

    def __init__(
        self, curve: Callable[[float], Sequence[float]], of_points: Points = euclidean, *, power: float = 1.0
    ) -> None:
        self.curve, self.of_points, self.power = curve, of_points, power

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        points = [
            torch.tensor([list(self.curve(weight)) for weight in pixels.flatten().tolist()], dtype=torch.float64)
            for pixels in (first, second)
        ]
        return self.of_points(*points) ** self.power
