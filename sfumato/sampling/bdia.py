"""BDIA (Zhang et al., 2023), https://arxiv.org/abs/2307.10829: DDIM with one step of memory, which makes it invertible.

Each step also looks back: the same network output that carries the latents forward tells where they should have come
from, and what that misses of where they did come from is added. The new latents are linear in the latents one step
before, so these can be had back exactly from the two that followed (`inversions/bdia.py`).
"""

from __future__ import annotations

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.sampling.ddim import ddim_step


class BidirectionalStep:
    r"""A step rule of the sampling loop, called like `ddim_step`; it remembers, so each run needs a new one.

    .. math:: z_{i-1} = D_{i \to i-1}(z_i) + \gamma\,\bigl(z_{i+1} - D_{i \to i+1}(z_i)\bigr)

    D is the deterministic DDIM step with the noise predicted at z_i, to the less noisy level and back to the noisier
    one. The first step has no z_{i+1}: there the second term, the correction, is given.

    Reference: Zhang et al., 2023, section 4 (the update of BDIA-DDIM), with its terms collected.
    """

    def __init__(self, gamma: float, correction: Tensor) -> None:
        """Takes the weight of the look back, in (0, 1], and the first step's correction, shaped like the latents.

        Raises:
            UsageError: gamma is outside (0, 1].
        """
        check_gamma(gamma)
        self.gamma, self._correction = gamma, correction
        self._before: tuple[Tensor, float] | None = None

    def __call__(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        alpha_bar: float,
        alpha_bar_prev: float,
        *,
        noise: Tensor | None = None,
        x0_pred: Tensor | None = None,
    ) -> Tensor:
        """Latents at `alpha_bar_prev`; see `ddim_step`. `noise` is not used: the step is deterministic."""
        if self._before is None:
            correction = self._correction.to(latents)
        else:
            before, alpha_bar_before = self._before
            back = ddim_step(latents, noise_pred, alpha_bar, alpha_bar_before, x0_pred=x0_pred)
            correction = self.gamma * (before - back)
        self._before = latents, alpha_bar
        return ddim_step(latents, noise_pred, alpha_bar, alpha_bar_prev, x0_pred=x0_pred) + correction


def check_gamma(gamma: float) -> None:
    """Raises UsageError when gamma is outside (0, 1]; at 0 the rule is DDIM's and cannot be inverted."""
    if not 0.0 < gamma <= 1.0:
        raise UsageError(f"gamma must be in (0, 1], got {gamma:g}")
