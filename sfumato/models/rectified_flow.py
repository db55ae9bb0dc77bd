"""The schedule of a rectified flow (Liu et al., 2022), https://arxiv.org/abs/2209.03003.

Noisy latents are x = (1 - sigma) x0 + sigma eps, and the network is conditioned on 1000 sigma. Shifts move a run's
levels towards the noisy end, more so for larger images (Esser et al., 2024, https://arxiv.org/abs/2403.03206, section
5.3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp
from typing import Literal

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Level, Neighbour, Prediction, Step, Target, split

TIMES = 1000
"""Times run from 0 (clean) to this (pure noise)."""


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the image: k = e^mu, mu linear in the image tokens (2 x 2 latents each), not clamped.

    Attributes:
        base_shift, max_shift: mu at `base_tokens` and at `max_tokens`.
        base_tokens, max_tokens: Image tokens.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096

    def mu(self, latent_size: tuple[int, int]) -> float:
        """log k for latents of (height, width)."""
        tokens = latent_size[0] * latent_size[1] / 4
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (tokens - self.base_tokens)


@dataclass(frozen=True)
class RectifiedFlow:
    r"""Levels (1 - sigma, sigma), and how runs are laid over them.

    .. math:: \sigma = \frac{k s}{1 + (k - 1) s}

    Attributes:
        shift: k, at least 1; 1 = off. Not used under `dynamic`.
        dynamic: k by the size of the latents, or None.
        grid: Where s lies before the shift: evenly from 1 to 1 / N ("linspace", FLUX), or to the smallest level of a
            training table of `TIMES` entries that is shifted already ("table", SD3).
    """

    shift: float = 1.0
    dynamic: DynamicShift | None = None
    grid: Literal["linspace", "table"] = "linspace"

    @property
    def target(self) -> Target:
        """What the network returns: eps - x0."""
        return "flow"

    def level(self, time: float) -> Level:
        """The level at time 1000 sigma; the clean one for a negative time."""
        sigma = max(time, 0.0) / TIMES
        return Level(1.0 - sigma, sigma)

    def timesteps(self, num_inference_steps: int, *, latent_size: tuple[int, int] | None = None) -> list[float]:
        """Times of a run, noisiest first, the clean end not among them.

        Args:
            num_inference_steps: N, in [1, 1000].
            latent_size: (height, width) of the run's latents, for a dynamic shift.

        Raises:
            UsageError: There are no runs of so many steps, or the size is missing.
        """
        count = num_inference_steps
        if not 1 <= count <= TIMES:
            raise UsageError(f"num_inference_steps must be in [1, {TIMES}], got {count}")
        factor = self._factor(latent_size)
        last = 1.0 / count if self.grid == "linspace" else _shifted(1.0 / TIMES, factor)
        even = [1.0 + (last - 1.0) * i / max(count - 1, 1) for i in range(count)]
        return [TIMES * _shifted(s, factor) for s in even]

    def steps(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        neighbour: Neighbour = "grid",
        latent_size: tuple[int, int] | None = None,
    ) -> list[Step]:
        """Steps of a run, see `Schedule.steps`; the last one ends at the clean level.

        Raises:
            UsageError: The times do not fall, leave (0, 1000], or neither argument is given; a neighbour by stride.
        """
        if neighbour != "grid":
            raise UsageError(f"a rectified flow walks its own grid: neighbour must be 'grid', got {neighbour!r}")
        if timesteps is None:
            if num_inference_steps is None:
                raise UsageError("give num_inference_steps or timesteps")
            timesteps = self.timesteps(num_inference_steps, latent_size=latent_size)
        times = [float(time) for time in timesteps]
        if not times or times[0] > TIMES or times[-1] <= 0.0 or any(a <= b for a, b in pairwise(times)):
            raise UsageError(f"timesteps must fall strictly within (0, {TIMES}], got {times[:6]}")
        return [
            Step(i, len(times), time, time_prev, self.level(time), self.level(time_prev))
            for i, (time, time_prev) in enumerate(pairwise([*times, -1.0]))
        ]

    def train_times(self, u: Tensor) -> Tensor:
        """1000 u, without a shift; see `Schedule.train_times`."""
        return u * TIMES

    def split(self, output: Tensor, latents: Tensor, level: Level) -> Prediction:
        """What a network output says, see `split`."""
        return split(output, latents, level, self.target)

    def _factor(self, latent_size: tuple[int, int] | None) -> float:
        if self.dynamic is None:
            return self.shift
        if latent_size is None:
            raise UsageError("the levels of this model depend on the size of the image: give latent_size")
        return exp(self.dynamic.mu(latent_size))


def _shifted(s: float, factor: float) -> float:
    return factor * s / (1.0 + (factor - 1.0) * s)
