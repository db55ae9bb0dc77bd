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
from sfumato.models.schedules import Level, Prediction, Step

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
        return step.level_prev.noise > 0.0

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        variance = self.variance
        return ddpm_step(latents, prediction, step.level, step.level_prev, noise=z, variance=variance), None


@dataclass(frozen=True)
class NoiseMaps:
    """DDPM's mean plus a noise map as it is, not times a standard deviation: that of a last step would be lost.

    What replays maps that were kept so; the loop takes them from the inversion.
    """

    def init(self, latents: Tensor, first: Step) -> None:
        """Remembers nothing."""

    def stochastic(self, step: Step) -> bool:
        return True

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        if z is None:
            raise UsageError("a step by noise maps needs its map: pass noise")
        return ddpm_mean(latents, prediction, step.level, step.level_prev) + z, None


def ddpm_mean(latents: Tensor, prediction: Prediction, level: Level, level_prev: Level) -> Tensor:
    """The mean of `ddpm_step`, shaped like the latents."""
    ratio = level.signal / level_prev.signal
    beta = level.noise**2 - (ratio * level_prev.noise) ** 2
    share = (level_prev.noise / level.noise) ** 2
    return level_prev.signal * beta / level.noise**2 * prediction.x0 + ratio * share * latents


def ddpm_step(
    latents: Tensor,
    prediction: Prediction,
    level: Level,
    level_prev: Level,
    *,
    noise: Tensor | None = None,
    variance: Variance = "posterior",
) -> Tensor:
    r"""Takes one ancestral step from a noise level to a less noisy one.

    .. math:: x_{prev} = \frac{s_{prev}\,\beta}{n^2}\,\hat x_0 + \frac{r\,n_{prev}^2}{n^2}\,x_t + \sigma z,
              \qquad r = s/s_{prev},\ \beta = n^2 - r^2 n_{prev}^2

    with levels (s, n); where their squares sum to 1, r^2 is the alpha of a step and beta its 1 - alpha.

    Reference: Ho et al., 2020, Eq. 6 and 7 (posterior mean and variance), section 3.2 (both choices of variance).

    Args:
        latents: Noisy latents x_t, (..., channels, height, width).
        prediction: At them, after guidance, same shape.
        level: Level of the latents.
        level_prev: Level to reach; where it holds no noise, nothing is added.
        noise: Standard normal draw z, broadcastable to the latents; required unless `level_prev` holds no noise.
        variance: sigma^2 = beta n_prev^2 / n^2 ("posterior"), or beta ("beta").

    Returns:
        Latents at `level_prev`, same shape and dtype.

    Raises:
        UsageError: Noise is missing.
    """
    mean = ddpm_mean(latents, prediction, level, level_prev)
    if level_prev.noise == 0.0:
        return mean
    if noise is None:
        raise UsageError("DDPM adds noise at every step but the last: pass noise")
    beta = level.noise**2 - (level.signal / level_prev.signal * level_prev.noise) ** 2
    share = (level_prev.noise / level.noise) ** 2
    return mean + sqrt(beta * (share if variance == "posterior" else 1.0)) * noise
