"""A diffusion model read as a rectified flow, so that what is made for flows runs on it, without training.

A flow's noisy latents are x = (1 - sigma) x0 + sigma eps. Divided by sqrt((1 - sigma)^2 + sigma^2) they are those of a
variance-preserving diffusion at the level of the same ratio of signal to noise. So its network says at every sigma what
x0 and eps are, and eps - x0 is the flow's velocity. What the networks know stays the same; levels, steps and the paths
between them become a flow's.

Reference: Lipman et al., 2023, https://arxiv.org/abs/2210.02747, section 4.1 (diffusion paths beside straight ones).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import hypot, inf, log
from typing import Final

import torch
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.base import Condition, Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.rectified_flow import TIMES, RectifiedFlow
from sfumato.models.schedules import Level
from sfumato.models.sdxl import StableDiffusionXL
from sfumato.models.stable_diffusion import StableDiffusion

FLOW_MARK: Final = "+flow"
"""At the end of the revision of a model that is read so."""


class FlowReading(StableDiffusion):
    """Stable Diffusion's networks behind the levels of a rectified flow.

    Attributes:
        diffusion: The levels that the network was trained at.
    """

    diffusion: DiscreteVP

    def predict(self, latents: Tensor, t: float | Sequence[float], condition: Condition) -> Tensor:
        """The velocity eps - x0 at time 1000 sigma, see `Model.predict`."""
        times = list(t) if isinstance(t, Sequence) else [t]
        sigmas = [max(float(time), 0.0) / TIMES for time in times]
        told, levels = zip(*(_nearest(self.diffusion, sigma) for sigma in sigmas), strict=True)
        scales = torch.tensor([1.0 / hypot(1.0 - sigma, sigma) for sigma in sigmas]).view(-1, 1, 1, 1)
        scaled = latents * scales.to(latents)
        output = super().predict(scaled, told if len(told) > 1 else told[0], condition)
        if len(sigmas) == 1:
            return self._velocity(output, scaled, latents, sigmas[0], levels[0])
        rows = zip(output.split(1), scaled.split(1), latents.split(1), sigmas, levels, strict=True)
        return torch.cat([self._velocity(*row) for row in rows])

    def _velocity(self, output: Tensor, scaled: Tensor, latents: Tensor, sigma: float, level: Level) -> Tensor:
        """Of what the network says of `scaled`; where it knows no level as clean or as noisy, by its nearest one.

        With x0 alone for much noise, and eps alone for little, the other follows from the latents themselves.
        """
        found = self.diffusion.split(output, scaled, level)
        return (latents - found.x0) / sigma if sigma > 0.5 else (found.eps - latents) / (1.0 - sigma)


class FlowReadingXL(FlowReading, StableDiffusionXL):
    """The same of Stable Diffusion XL."""


_READINGS: Final[Mapping[type[Model], type[FlowReading]]] = {
    StableDiffusion: FlowReading,
    StableDiffusionXL: FlowReadingXL,
}


def read_as_flow(model: Model) -> FlowReading:
    """The same networks with the levels of a rectified flow, for FlowEdit, RF-Inversion and others made for flows.

    Args:
        model: Stable Diffusion 1.x, 2.x or XL, which stays as it is.

    Returns:
        A model of its own that shares the weights; its revision ends in `FLOW_MARK`.

    Raises:
        ModelError: The model is no such diffusion, or one that was distilled for a few steps.
    """
    kind = _READINGS.get(type(model))
    if kind is None or model.few_steps or model.takes_guidance or not isinstance(model.schedule, DiscreteVP):
        raise ModelError(f"{model.name} cannot be read as a flow: it is no plain Stable Diffusion 1.x, 2.x or XL")
    reading = kind.__new__(kind)
    reading.__dict__.update(vars(model))
    reading.diffusion, reading.schedule = model.schedule, RectifiedFlow()
    reading.revision, reading.evaluations = f"{model.revision}{FLOW_MARK}", 0
    return reading


def _nearest(diffusion: DiscreteVP, sigma: float) -> tuple[float, Level]:
    """Time and level of the diffusion with the ratio of signal to noise of `sigma`, between two timesteps as a rule.

    Times are linear in the logarithm of that ratio between neighbours; beyond both ends stand the ends.
    """
    alpha_bars = diffusion.alphas_cumprod
    ratios = 0.5 * (alpha_bars / (1.0 - alpha_bars)).log()  # falling
    last = len(ratios) - 1
    if sigma <= 0.0 or (ratio := _log_ratio(sigma)) >= ratios[0]:
        return 0, diffusion.level(0)
    if ratio <= ratios[last]:
        return last, diffusion.level(last)
    above = bisect_left(range(len(ratios)), -ratio, key=lambda time: -float(ratios[time]))
    high, low = float(ratios[above - 1]), float(ratios[above])
    scale = hypot(1.0 - sigma, sigma)
    return above - 1 + (high - ratio) / (high - low), Level((1.0 - sigma) / scale, sigma / scale)


def _log_ratio(sigma: float) -> float:
    return log((1.0 - sigma) / sigma) if sigma < 1.0 else -inf
