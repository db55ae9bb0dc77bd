"""Noise levels, and how a network's prediction at one of them is read.

Noisy latents are x = signal x0 + noise eps. A level is the pair (signal, noise): for a variance-preserving diffusion
the squares sum to 1, for a rectified flow the two sum to 1. What is written in levels serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, Protocol

from torch import Tensor

from sfumato.errors import ModelError

Neighbour = Literal["grid", "stride"]
Target = Literal["noise", "velocity", "x0", "flow"]
"""What a network returns: eps; signal eps - noise x0 (squares sum to 1); x0; or eps - x0 (signal + noise = 1)."""


@dataclass(frozen=True)
class Level:
    """A noise level: x = signal x0 + noise eps.

    Attributes:
        signal: In [0, 1].
        noise: In [0, 1].
    """

    signal: float
    noise: float

    @classmethod
    def variance_preserving(cls, alpha_bar: float) -> Level:
        """The level of DDPM's cumulative signal level alpha_bar, in [0, 1]."""
        return cls(sqrt(alpha_bar), sqrt(1.0 - alpha_bar))


@dataclass(frozen=True)
class Step:
    """One step of a run; time walks from noise to image, `_prev` is always the less noisy side.

    Attributes:
        index: 0-based count in sampling order, over all steps of the grid, also when the run starts later.
        num_steps: Steps of the whole grid.
        time: What the network is conditioned on: a timestep, or 1000 sigma.
        time_prev: That of the less noisy neighbour; negative after the last step.
        level: Level at `time`.
        level_prev: Level at `time_prev`.
    """

    index: int
    num_steps: int
    time: float
    time_prev: float
    level: Level
    level_prev: Level


@dataclass(frozen=True)
class Prediction:
    """What the network says of noisy latents, after guidance: both parts, so that no level divides by zero.

    Attributes:
        x0: Predicted clean latents, (..., channels, height, width).
        eps: Predicted noise, likewise.
    """

    x0: Tensor
    eps: Tensor


class Schedule(Protocol):
    """The noise levels that a model was trained at.

    Attributes:
        target: What its network returns.
    """

    @property
    def target(self) -> Target: ...

    def level(self, time: float) -> Level:
        """The level at a time; for a negative one, that after the last step."""

    def time_at(self, share: float) -> float:
        """The time at a share of the way from the clean end, 0, to the noisiest level, 1."""

    def timesteps(self, num_inference_steps: int, *, latent_size: tuple[int, int] | None = None) -> Sequence[float]:
        """Times of a run, noisiest first.

        Args:
            num_inference_steps: How many.
            latent_size: (height, width) of the run's latents, for schedules that depend on it.

        Raises:
            UsageError: The schedule has no run of so many steps.
        """

    def steps(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        neighbour: Neighbour = "grid",
        latent_size: tuple[int, int] | None = None,
    ) -> list[Step]:
        """Steps of a run, noisiest first.

        Args:
            num_inference_steps: How many, when `timesteps` is not given.
            timesteps: An explicit list of times, noisiest first, strictly falling, within the schedule.
            neighbour: What follows a time: the next entry of the list ("grid"), or the time minus a fixed stride
                ("stride", as in diffusers; discrete schedules only).
            latent_size: (height, width) of the run's latents, for schedules that depend on it.

        Raises:
            UsageError: The times do not fall, leave the schedule, or neither argument is given.
        """

    def train_times(self, u: Tensor) -> Tensor:
        """Times at which the network was trained, for u in [0, 1] from the clean end on, same shape."""

    def split(self, output: Tensor, latents: Tensor, level: Level) -> Prediction:
        """What a network output says, see `split`."""


def split(output: Tensor, latents: Tensor, level: Level, target: Target) -> Prediction:
    r"""Splits a network output into clean latents and noise, each shaped like the latents.

    .. math:: x = s\,x_0 + n\,\epsilon, \qquad v = s\,\epsilon - n\,x_0 \ (s^2 + n^2 = 1), \qquad
              u = \epsilon - x_0 \ (s + n = 1)

    Reference: Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512, appendix D (velocity); Liu et al., 2022,
    https://arxiv.org/abs/2209.03003 (flow).

    Args:
        output: Of the network, as `target` says.
        latents: The noisy latents that the network saw.
        level: Their level.
        target: What the network returns.

    Raises:
        ModelError: The level holds no signal (zero-terminal-SNR schedule) and the network predicts noise.
    """
    if target == "noise":
        return Prediction(_x0_of_noise(latents, output, level), output)
    if target == "velocity":
        return Prediction(level.signal * latents - level.noise * output, level.signal * output + level.noise * latents)
    if target == "flow":
        return Prediction(latents - level.noise * output, latents + level.signal * output)
    return Prediction(output, (latents - level.signal * output) / level.noise)


def join(prediction: Prediction, level: Level, target: Target) -> Tensor:
    """The network output that a prediction stands for, shaped like the latents: the inverse of `split`."""
    if target == "noise":
        return prediction.eps
    if target == "velocity":
        return level.signal * prediction.eps - level.noise * prediction.x0
    return prediction.x0 if target == "x0" else prediction.eps - prediction.x0


def add_noise(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """Draws from q(x | x0) at a level: signal x0 + noise eps, shaped like x0."""
    return level.signal * x0 + level.noise * noise


def _x0_of_noise(latents: Tensor, noise: Tensor, level: Level) -> Tensor:
    if level.signal <= 0.0:
        raise ModelError(
            "noise alone does not tell the clean latents at level 0 (zero-terminal-SNR schedule):"
            " such a model must predict v or the clean latents"
        )
    return (latents - level.noise * noise) / level.signal
