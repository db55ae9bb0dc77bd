"""DDIM (Song et al., 2021), https://arxiv.org/abs/2010.02502: one formula both ways, with or without noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Prediction, Step, x0_from_noise


@dataclass(frozen=True)
class DDIM:
    """`ddim_step` as a stepper of the sampling loop.

    Attributes:
        eta: Stochasticity, in [0, 1]; 0 = DDIM, 1 = DDPM.

    Raises:
        UsageError: eta is outside [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_eta(self.eta)

    def init(self, latents: Tensor, first: Step) -> None:
        """Remembers nothing."""

    def stochastic(self, step: Step) -> bool:
        return ddim_std(step.alpha_bar, step.alpha_bar_prev, self.eta) > 0.0

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        levels = step.alpha_bar, step.alpha_bar_prev
        return ddim_step(latents, prediction.eps, *levels, eta=self.eta, noise=z, x0_pred=prediction.x0), None


def ddim_step(
    latents: Tensor,
    noise_pred: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
    x0_pred: Tensor | None = None,
) -> Tensor:
    r"""Takes one step from noise level `alpha_bar` to `alpha_bar_prev`.

    .. math:: x_{prev} = \sqrt{\bar\alpha_{prev}}\,\hat x_0 + \sqrt{1-\bar\alpha_{prev}-\sigma^2}\,\epsilon + \sigma z

    With the two levels exchanged and eta 0 the same formula inverts: it carries latents to the noisier level.

    Reference: Song et al., 2021, Eq. 12, with sigma from Eq. 16.

    Args:
        latents: Noisy latents x_t, (batch, channels, height, width).
        noise_pred: Predicted noise after guidance, same shape.
        alpha_bar: Level of the latents, in (0, 1]; 0 too when `x0_pred` is given.
        alpha_bar_prev: Level to reach, in (0, 1].
        eta: Stochasticity, in [0, 1]; 0 = DDIM, 1 = DDPM.
        noise: Standard normal draw z, shaped like the latents; required when eta > 0.
        x0_pred: Clean latents, where they are known better than from the noise (clipping, v-prediction at level 0).

    Returns:
        Latents at `alpha_bar_prev`, same shape and dtype.

    Raises:
        UsageError: eta is outside [0, 1], or eta > 0 without noise.
    """
    std = ddim_std(alpha_bar, alpha_bar_prev, eta)
    x0 = x0_from_noise(latents, noise_pred, alpha_bar) if x0_pred is None else x0_pred
    mean = sqrt(alpha_bar_prev) * x0 + sqrt(max(1.0 - alpha_bar_prev - std**2, 0.0)) * noise_pred
    if std == 0.0:
        return mean
    if noise is None:
        raise UsageError(f"eta={eta:g} adds noise at every step: pass noise")
    return mean + std * noise


def ddim_std(alpha_bar: float, alpha_bar_prev: float, eta: float) -> float:
    r"""Standard deviation of the noise that a step adds.

    .. math:: \sigma = \eta\,\sqrt{\frac{1-\bar\alpha_{prev}}{1-\bar\alpha}\,(1-\bar\alpha/\bar\alpha_{prev})}

    Reference: Song et al., 2021, Eq. 16.

    Raises:
        UsageError: eta is outside [0, 1].
    """
    check_eta(eta)
    if eta == 0.0:
        return 0.0
    variance = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev)
    return eta * sqrt(max(variance, 0.0))


def check_eta(eta: float) -> None:
    """Raises UsageError when eta is outside [0, 1]."""
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"eta must be in [0, 1], got {eta:g}")
