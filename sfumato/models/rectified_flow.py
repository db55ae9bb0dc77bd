"""The schedule of a rectified flow (Liu et al., 2022), https://arxiv.org/abs/2209.03003.

Noisy latents are x = (1 - sigma) x0 + sigma eps, and the network is conditioned on 1000 sigma. Shifts move a run's
levels towards the noisy end, more so for larger images (Esser et al., 2024, https://arxiv.org/abs/2403.03206, section
5.3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp
from typing import Any, Literal

from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.models.scheduler_config import read_number
from sfumato.models.schedules import Level, Neighbour, Prediction, Step, Target, split

Grid = Literal["linspace", "table"]

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

    def mu(self, latent_size: tuple[int, int], num_inference_steps: int = 0) -> float:
        """log k for latents of (height, width), in a run of any number of steps."""
        tokens = latent_size[0] * latent_size[1] / 4
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (tokens - self.base_tokens)


@dataclass(frozen=True)
class EmpiricalShift:
    """The shift of FLUX.2's pipeline, which grows with the image and falls with the number of steps.

    Between the lines for 10 and for 200 steps, both linear in the image tokens; above 4300 tokens that for 200.
    """

    at_10: tuple[float, float] = (8.73809524e-05, 1.89833333)
    at_200: tuple[float, float] = (0.00016927, 0.45666666)
    most_tokens: int = 4300

    def mu(self, latent_size: tuple[int, int], num_inference_steps: int) -> float:
        """log k for latents of (height, width)."""
        tokens = latent_size[0] * latent_size[1] / 4
        few, many = (slope * tokens + start for slope, start in (self.at_10, self.at_200))
        if tokens > self.most_tokens:
            return many
        return many + (many - few) * (num_inference_steps - 200) / 190


@dataclass(frozen=True)
class RectifiedFlow:
    r"""Levels (1 - sigma, sigma), and how runs are laid over them.

    .. math:: \sigma = \frac{k s}{1 + (k - 1) s}

    Attributes:
        shift: k, at least 1; 1 = off. Not used under `dynamic`.
        dynamic: k by the size of the latents, or None.
        grid: Where s lies before the shift: evenly from 1 to 1 / N ("linspace", FLUX), or to the smallest level of a
            training table of `TIMES` entries, which a static shift was applied to already ("table", SD3).
        terminal: Last level before the clean one, to which 1 - sigma is stretched; None: where it falls.
    """

    shift: float = 1.0
    dynamic: DynamicShift | EmpiricalShift | None = None
    grid: Grid = "linspace"
    terminal: float | None = None

    @property
    def target(self) -> Target:
        """What the network returns: eps - x0."""
        return "flow"

    def level(self, time: float) -> Level:
        """The level at time 1000 sigma; the clean one for a negative time."""
        sigma = max(time, 0.0) / TIMES
        return Level(1.0 - sigma, sigma)

    def time_at(self, share: float) -> float:
        """The time at a share of the way, see `Schedule.time_at`."""
        return TIMES * share

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
        factor = self._factor(latent_size, count)
        last = 1.0 / count if self.grid == "linspace" else 1.0 / TIMES
        if self.grid == "table" and self.dynamic is None:
            last = _shifted(last, factor)
        even = [1.0 + (last - 1.0) * i / max(count - 1, 1) for i in range(count)]
        sigmas = [_shifted(s, factor) for s in even]
        if self.terminal is not None and count > 1:
            stretch = (1.0 - self.terminal) / (1.0 - sigmas[-1])
            sigmas = [1.0 - (1.0 - sigma) * stretch for sigma in sigmas]
        return [TIMES * sigma for sigma in sigmas]

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

    def _factor(self, latent_size: tuple[int, int] | None, num_inference_steps: int) -> float:
        if self.dynamic is None:
            return self.shift
        if latent_size is None:
            raise UsageError("the levels of this model depend on the size of the image: give latent_size")
        return exp(self.dynamic.mu(latent_size, num_inference_steps))


def read_flow(config: Mapping[str, Any], *, grid: Grid) -> RectifiedFlow:
    """The levels that a `FlowMatchEulerDiscreteScheduler`'s config stands for.

    Args:
        config: Its fields; those that are missing have the defaults of that class.
        grid: How the model's pipeline lays a run, which the config does not say.

    Raises:
        ModelError: It asks for levels that are not known, or a value is out of range.
    """
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"):
        if config.get(name):
            raise ModelError(f"the scheduler asks for {name}, which is not supported; set it to false")
    if config.get("time_shift_type", "exponential") != "exponential":
        raise ModelError(f"time_shift_type {config['time_shift_type']!r} of the scheduler is not known")
    if read_number(config, "num_train_timesteps", TIMES, low=1, high=1e5) != TIMES:
        raise ModelError(f"num_train_timesteps of the scheduler must be {TIMES} for a flow model")
    dynamic = None
    if config.get("use_dynamic_shifting"):
        dynamic = DynamicShift(
            read_number(config, "base_shift", 0.5, low=0.0, high=20.0),
            read_number(config, "max_shift", 1.15, low=0.0, high=20.0),
            int(read_number(config, "base_image_seq_len", 256, low=1, high=1e6)),
            int(read_number(config, "max_image_seq_len", 4096, low=1, high=1e6)),
        )
        if dynamic.base_tokens == dynamic.max_tokens:
            raise ModelError("base_image_seq_len and max_image_seq_len of the scheduler must differ")
    terminal = config.get("shift_terminal") and read_number(config, "shift_terminal", 0.0, low=0.0, high=0.99)
    return RectifiedFlow(read_number(config, "shift", 1.0, low=1e-3, high=1e3), dynamic, grid, terminal or None)


def _shifted(s: float, factor: float) -> float:
    return factor * s / (1.0 + (factor - 1.0) * s)
