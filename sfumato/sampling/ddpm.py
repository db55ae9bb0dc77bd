"""DDPM (Ho et al., 2020), https://arxiv.org/abs/2006.11239: ancestral sampling in posterior form.

With `variance="posterior"` it is DDIM at eta 1 written differently (a test says so); with `"beta"` the mean stays and
the noise is the forward process's own, the other choice of section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Prediction, Step, x0_from_noise

Variance = Literal["posterior", "beta"]


@dataclass(frozen=True)
class DDPM:
    """`ddpm_step` as a stepper of the sampling loop.

    Attributes:
        variance: Of the noise that a step adds, see `ddpm_step`.
    """

    variance: Variance = "posterior"

    def init(self, latents: Tensor, first: Step) -> None:
        """Remembers nothing."""

    def stochastic(self, step: Step) -> bool:
        return step.alpha_bar_prev < 1.0

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        levels, variance = (step.alpha_bar, step.alpha_bar_prev), self.variance
        return ddpm_step(latents, prediction.eps, *levels, noise=z, variance=variance, x0_pred=prediction.x0), None


def ddpm_step(
    latents: Tensor,
    noise_pred: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    *,
    noise: Tensor | None = None,
    variance: Variance = "posterior",
    x0_pred: Tensor | None = None,
) -> Tensor:
    r"""Takes one ancestral step from noise level `alpha_bar` to `alpha_bar_prev`.

    .. math:: x_{prev} = \frac{\sqrt{\bar\alpha_{prev}}\,\beta}{1-\bar\alpha}\,\hat x_0
              + \frac{\sqrt{\alpha}\,(1-\bar\alpha_{prev})}{1-\bar\alpha}\,x_t + \sigma z,
              \qquad \alpha = \bar\alpha/\bar\alpha_{prev},\ \beta = 1-\alpha

    Reference: Ho et al., 2020, Eq. 6 and 7 (posterior mean and variance), section 3.2 (both choices of variance).

    Args:
        latents: Noisy latents x_t, (batch, channels, height, width).
        noise_pred: Predicted noise after guidance, same shape.
        alpha_bar: Level at t, in (0, 1).
        alpha_bar_prev: Level at t_prev, in (0, 1]; at 1 nothing is added.
        noise: Standard normal draw z, shaped like the latents; required unless alpha_bar_prev is 1.
        variance: sigma^2 = beta (1 - alpha_bar_prev) / (1 - alpha_bar) ("posterior"), or beta ("beta").
        x0_pred: Clean latents, where they are known better than from the noise (clipping).

    Returns:
        Latents at t_prev, same shape and dtype.

    Raises:
        UsageError: Noise is missing.
    """
    alpha = alpha_bar / alpha_bar_prev
    beta = 1.0 - alpha
    x0 = x0_from_noise(latents, noise_pred, alpha_bar) if x0_pred is None else x0_pred
    from_x0 = sqrt(alpha_bar_prev) * beta / (1.0 - alpha_bar)
    from_latents = sqrt(alpha) * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar)
    mean = from_x0 * x0 + from_latents * latents
    if alpha_bar_prev == 1.0:
        return mean
    if noise is None:
        raise UsageError("DDPM adds noise at every step but the last: pass noise")
    share = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) if variance == "posterior" else 1.0
    return mean + sqrt(beta * share) * noise
