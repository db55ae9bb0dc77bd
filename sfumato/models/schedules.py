"""Noise levels: how a diffusion model's noise schedule is walked, and how its prediction targets convert.

A schedule holds the cumulative signal levels `alpha_bar` of a trained model and hands out the steps of a run. A step is
*(t told to the network, level from, level to)*; `t` walks from noise to image, `_prev` is always the less noisy side.

Differs from diffusers' schedulers: no state, no stepping rule inside (see `samplers`), float64 levels, and `t_prev` is
the next timestep of the run's own list. diffusers subtracts a fixed stride instead, which differs where the list is
not evenly spaced (linspace, or trailing with a step count that does not divide the schedule); `neighbour="stride"`
gives that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.models.scheduler_config import PredictionType, Spacing, read_config

Neighbour = Literal["grid", "stride"]


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        index: 0-based count in sampling order, over all steps of the grid, also when the run starts later.
        t: Timestep told to the network.
        t_prev: Its less noisy neighbour; negative after the last step.
        alpha_bar: Level at t, in [0, 1).
        alpha_bar_prev: Level at t_prev, in (0, 1].
        num_inference_steps: Steps of the whole grid.
    """

    index: int
    t: int
    t_prev: int
    alpha_bar: float
    alpha_bar_prev: float
    num_inference_steps: int


@dataclass(frozen=True)
class Prediction:
    """What the network says of noisy latents, after guidance: both parts, so that no level divides by zero.

    Attributes:
        x0: Predicted clean latents, (..., channels, height, width).
        eps: Predicted noise, likewise.
    """

    x0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Schedule:
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
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
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

    def alpha_bar(self, t: int) -> float:
        """Level at timestep t, or the final level for t < 0."""
        return float(self.alphas_cumprod[t]) if t >= 0 else self.final_alpha_bar

    def timesteps(self, num_inference_steps: int) -> list[int]:
        """Timesteps of a run, noisiest first.

        Raises:
            UsageError: num_inference_steps is not in [1, num_train_timesteps].
        """
        total = self.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise UsageError(f"num_inference_steps must be in [1, {total}], got {num_inference_steps}")
        if self.spacing == "lcm":
            return self._lcm_timesteps(num_inference_steps)
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

    def _lcm_timesteps(self, num_inference_steps: int) -> list[int]:
        """Evenly spread positions, from the noisy end, in the timesteps of the distillation (Luo et al., 2023,
        https://arxiv.org/abs/2310.04378, as released: k - 1, 2k - 1, ... with k training timesteps a stride).
        """
        stride = self.num_train_timesteps // self.original_inference_steps
        distilled = [j * stride - 1 for j in range(self.original_inference_steps, 0, -1)]
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
        timesteps: Sequence[int] | None = None,
        neighbour: Neighbour = "grid",
    ) -> list[Step]:
        """Steps of a run, noisiest first.

        Args:
            num_inference_steps: How many, when `timesteps` is not given.
            timesteps: An explicit list, noisiest first, strictly falling, within the schedule.
            neighbour: What follows t: the next entry of the list ("grid"), or t minus a fixed stride ("stride", as in
                diffusers). Below the last entry lies t minus the stride in both cases.

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
            Step(i, t, t_prev, self.alpha_bar(t), self.alpha_bar(t_prev), len(chosen))
            for i, (t, t_prev) in enumerate(zip(chosen, following, strict=True))
        ]

    def _check(self, timesteps: list[int]) -> None:
        falling = all(a > b for a, b in pairwise(timesteps))
        if not timesteps or not falling or timesteps[0] >= self.num_train_timesteps or timesteps[-1] < 0:
            raise UsageError(
                f"timesteps must fall strictly within [0, {self.num_train_timesteps - 1}], got {timesteps[:6]}"
            )

    def noise_and_x0(self, model_output: Tensor, latents: Tensor, alpha_bar: float) -> tuple[Tensor, Tensor]:
        r"""Splits a network output into `noise_pred` and `x0_pred`, each shaped like the latents.

        .. math:: x = \sqrt{\bar\alpha}\,x_0 + \sqrt{1-\bar\alpha}\,\epsilon, \qquad
                  v = \sqrt{\bar\alpha}\,\epsilon - \sqrt{1-\bar\alpha}\,x_0

        Reference: Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512, appendix D (velocity).

        Args:
            model_output: Noise, velocity or clean latents, as `prediction_type` says.
            latents: The noisy latents that the network saw.
            alpha_bar: Their level, in [0, 1).

        Raises:
            ModelError: The level is 0 (zero-terminal-SNR schedule) and the network predicts noise.
        """
        signal, noise = sqrt(alpha_bar), sqrt(1.0 - alpha_bar)
        if self.prediction_type == "epsilon":
            noise_pred, x0_pred = model_output, x0_from_noise(latents, model_output, alpha_bar)
        elif self.prediction_type == "v_prediction":
            noise_pred, x0_pred = signal * model_output + noise * latents, signal * latents - noise * model_output
        else:
            noise_pred, x0_pred = (latents - signal * model_output) / noise, model_output
        if self.clip_sample_range is not None:
            x0_pred = x0_pred.clamp(-self.clip_sample_range, self.clip_sample_range)
        return noise_pred, x0_pred


def x0_from_noise(latents: Tensor, noise_pred: Tensor, alpha_bar: float) -> Tensor:
    """Clean latents implied by a noise prediction at level alpha_bar, in (0, 1)."""
    if alpha_bar <= 0.0:
        raise ModelError(
            "noise alone does not tell the clean latents at level 0 (zero-terminal-SNR schedule):"
            " such a model must predict v or the clean latents"
        )
    return (latents - sqrt(1.0 - alpha_bar) * noise_pred) / sqrt(alpha_bar)


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Draws from q(x_t | x_0): sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, shaped like x0."""
    return sqrt(alpha_bar) * x0 + sqrt(1.0 - alpha_bar) * noise
