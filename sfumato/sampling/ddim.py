"""DDIM (Song et al., 2021), https://arxiv.org/abs/2010.02502: one formula both ways, with or without noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Level, Prediction, Step


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
        return ddim_std(step.level, step.level_prev, self.eta) > 0.0

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: None, z: Tensor | None
    ) -> tuple[Tensor, None]:
        return ddim_step(prediction, step.level, step.level_prev, eta=self.eta, noise=z), None


def ddim_step(
    prediction: Prediction, level: Level, level_prev: Level, *, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    r"""Takes one step from a noise level to another, of a variance-preserving diffusion or of a flow.

    .. math:: x_{prev} = s_{prev}\,\hat x_0 + \sqrt{n_{prev}^2-\sigma^2}\,\hat\epsilon + \sigma z

    with levels (s, n). Where the squares of s and n sum to 1 this is DDIM's step, where s + n = 1 and eta = 0 Euler's
    along the flow. With the two levels exchanged and eta 0 it inverts: it carries latents to the noisier level.

    Reference: Song et al., 2021, Eq. 12, with sigma from Eq. 16 (see `ddim_std`).

    Args:
        prediction: At `level`, after guidance, (..., channels, height, width).
        level: Level of the latents that the prediction is for.
        level_prev: Level to reach.
        eta: Stochasticity, in [0, 1]; 0 = DDIM, 1 = DDPM.
        noise: Standard normal draw z, broadcastable to the latents; required when eta > 0.

    Returns:
        Latents at `level_prev`, same shape and dtype.

    Raises:
        UsageError: eta is outside [0, 1], or eta > 0 without noise.
    """
    std = ddim_std(level, level_prev, eta)
    kept = level_prev.noise if std == 0.0 else sqrt(max(level_prev.noise**2 - std**2, 0.0))
    mean = level_prev.signal * prediction.x0 + kept * prediction.eps
    if std == 0.0:
        return mean
    if noise is None:
        raise UsageError(f"eta={eta:g} adds noise at every step: pass noise")
    return mean + std * noise


def ddim_std(level: Level, level_prev: Level, eta: float) -> float:
    r"""Standard deviation of the noise that a step adds.

    .. math:: \sigma = \eta\,n_{prev}\,\sqrt{1 - (s/s_{prev})^2\,(n_{prev}/n)^2}

    Reference: Song et al., 2021, Eq. 16.

    Raises:
        UsageError: eta is outside [0, 1].
    """
    check_eta(eta)
    if eta == 0.0 or level_prev.noise == 0.0:
        return 0.0
    kept = level.signal / level_prev.signal * level_prev.noise / level.noise
    return eta * level_prev.noise * sqrt(max(1.0 - kept**2, 0.0))


def check_eta(eta: float) -> None:
    """Raises UsageError when eta is outside [0, 1]."""
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"eta must be in [0, 1], got {eta:g}")
