"""The schedule of a discrete variance-preserving diffusion (DDPM and others), and the steps of runs on it.

Differs from diffusers' schedulers: no state, no stepping rule inside (see `sampling`), float64 levels, and `time_prev`
is the next timestep of the run's own list. diffusers subtracts a fixed stride instead, which differs where the list is
not evenly spaced (linspace, or trailing with a step count that does not divide the schedule); `neighbour="stride"`
gives that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.scheduler_config import PredictionType, Spacing, read_config
from sfumato.models.schedules import Level, Neighbour, Prediction, Step, Target, split

_TARGETS: Final[Mapping[PredictionType, Target]] = {
    "epsilon": "noise", "v_prediction": "velocity", "sample": "x0"
}  # fmt: skip


@dataclass(frozen=True)
class DiscreteVP:
    """The noise levels of one trained model, (num_train_timesteps,) in float64, and how runs are laid over them.

    Attributes:
        alphas_cumprod: `alpha_bar` at t = 0, 1, ..., falling.
        prediction_type: What the network returns: noise, velocity or clean latents.
        final_alpha_bar: Level reached after the last step: 1, or `alphas_cumprod[0]` (Stable Diffusion).
        spacing: Where the timesteps of a run lie (Lin et al., 2023, https://arxiv.org/abs/2305.08891, Table 2); "lcm":
            among those that a latent consistency model was distilled at.
        steps_offset: Added to every timestep under leading spacing.
        clip_sample_range: Bound on |x0_pred| (pixel-space models), or None.
        original_inference_steps: Timesteps that a latent consistency model was distilled at, for spacing "lcm".
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType = "epsilon"
    final_alpha_bar: float = 1.0
    spacing: Spacing = "leading"
    steps_offset: int = 0
    clip_sample_range: float | None = None
    original_inference_steps: int = 50

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DiscreteVP:
        """Reads a diffusers scheduler config as the class that its `_class_name` names would read it.

        What the config leaves out takes that class's default, and what the class ignores is ignored here, too: see
        `scheduler_config.SCHEDULERS`.

        Raises:
            ModelError: The class, or something that the config asks for, is not known here (named in the message).
        """
        return cls(**read_config(config))

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def target(self) -> Target:
        """What the network returns."""
        return _TARGETS[self.prediction_type]

    def alpha_bar(self, t: float) -> float:
        """DDPM's cumulative signal level at timestep t, or the final one for t < 0."""
        return float(self.alphas_cumprod[int(t)]) if t >= 0 else self.final_alpha_bar

    def level(self, time: float) -> Level:
        """The level at a timestep, or the final one for a negative time."""
        return Level.variance_preserving(self.alpha_bar(time))

    def time_at(self, share: float) -> int:
        """The timestep at a share of the way, see `Schedule.time_at`."""
        return round(share * (self.num_train_timesteps - 1))

    def timesteps(
        self, num_inference_steps: int, *, latent_size: tuple[int, int] | None = None, strength: float = 1.0
    ) -> list[int]:
        """Timesteps of a run, noisiest first; of latents of any size.

        Args:
            num_inference_steps: How many.
            latent_size: Has no part in it.
            strength: Of spacing "lcm", share of the noise at which the run starts, in (0, 1]: all of its steps lie
                below. Has no part in other spacings, whose runs start at a later step.

        Raises:
            UsageError: num_inference_steps is not in [1, num_train_timesteps].
        """
        total = self.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise UsageError(f"num_inference_steps must be in [1, {total}], got {num_inference_steps}")
        if self.spacing == "lcm":
            return self._lcm_timesteps(num_inference_steps, strength)
        if self.spacing == "leading":
            return self._leading_timesteps(num_inference_steps)
        if self.spacing == "trailing":
            return [round(total - i * total / num_inference_steps) - 1 for i in range(num_inference_steps)]
        span = torch.linspace(0, total - 1, num_inference_steps, dtype=torch.float64)
        return [round(t) for t in reversed(span.tolist())]

    def _leading_timesteps(self, num_inference_steps: int) -> list[int]:
        """Multiples of a whole stride; of a fractional one where whole strides would stop far below the noisiest level.

        501 whole strides over 1000 timesteps would start at t = 500, which still holds half of the image.
        """
        total = self.num_train_timesteps
        stride: float = total // num_inference_steps
        if total - num_inference_steps * stride > total / 10:
            stride = total / num_inference_steps
        timesteps = [int(i * stride) + self.steps_offset for i in reversed(range(num_inference_steps))]
        if timesteps[0] >= total:
            raise UsageError(
                f"num_inference_steps={num_inference_steps} with steps_offset={self.steps_offset} leaves the"
                f" schedule of {total} timesteps; use {num_inference_steps - 1} or fewer"
            )
        return timesteps

    def _lcm_timesteps(self, num_inference_steps: int, strength: float) -> list[int]:
        """Evenly spread positions, from the noisy end, in the timesteps of the distillation (Luo et al., 2023,
        https://arxiv.org/abs/2310.04378, as released: k - 1, 2k - 1, ... with k training timesteps a stride).
        """
        stride = self.num_train_timesteps // self.original_inference_steps
        count = int(self.original_inference_steps * strength + 1e-6)  # 50 * 0.58 is 28.99...
        distilled = [j * stride - 1 for j in range(count, 0, -1)]
        if num_inference_steps > len(distilled):
            raise UsageError(
                f"num_inference_steps must be in [1, {len(distilled)}] for a latent consistency model distilled at"
                f" {len(distilled)} timesteps, got {num_inference_steps}; 4 to 8 suit it"
            )
        return [distilled[i * len(distilled) // num_inference_steps] for i in range(num_inference_steps)]

    def steps(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        neighbour: Neighbour = "grid",
        latent_size: tuple[int, int] | None = None,
    ) -> list[Step]:
        """Steps of a run, see `Schedule.steps`; below the last timestep lies that minus the stride in any case.

        Raises:
            UsageError: The timesteps do not fall, leave the schedule, or neither argument is given.
        """
        if timesteps is None:
            if num_inference_steps is None:
                raise UsageError("give num_inference_steps or timesteps")
            timesteps = self.timesteps(num_inference_steps)
        chosen = [int(t) for t in timesteps]
        self._check(chosen)
        stride = self.num_train_timesteps // len(chosen)
        if neighbour == "stride":
            following = [t - stride for t in chosen]
        else:
            following = [*chosen[1:], min(chosen[-1] - stride, -1)]
        return [
            Step(i, len(chosen), t, t_prev, self.level(t), self.level(t_prev))
            for i, (t, t_prev) in enumerate(zip(chosen, following, strict=True))
        ]

    def _check(self, timesteps: list[int]) -> None:
        falling = all(a > b for a, b in pairwise(timesteps))
        if not timesteps or not falling or timesteps[0] >= self.num_train_timesteps or timesteps[-1] < 0:
            raise UsageError(
                f"timesteps must fall strictly within [0, {self.num_train_timesteps - 1}], got {timesteps[:6]}"
            )

    def train_times(self, u: Tensor) -> Tensor:
        """Timesteps for u in [0, 1], same shape, whole numbers; see `Schedule.train_times`."""
        return (u * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)

    def split(self, output: Tensor, latents: Tensor, level: Level) -> Prediction:
        """What a network output says, see `split`; clean latents bounded where the model was trained so."""
        prediction = split(output, latents, level, self.target)
        if self.clip_sample_range is None:
            return prediction
        return replace(prediction, x0=prediction.x0.clamp(-self.clip_sample_range, self.clip_sample_range))
