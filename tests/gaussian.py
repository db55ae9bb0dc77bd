"""A model of Gaussian data, whose exact noise prediction and whose exact probability flow are known in closed form."""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from sfumato.models.attention import AttentionSite
from sfumato.models.base import Condition, Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import Level, Prediction, Schedule, join


def cosine_schedule(timesteps: int = 4096, **changes: Any) -> DiscreteVP:
    """Smooth levels from 0.9999 down to 0.001, so that a solver's order shows."""
    angle = torch.linspace(0.01, 1.54, timesteps, dtype=torch.float64)
    return DiscreteVP(alphas_cumprod=torch.cos(angle) ** 2, spacing="trailing", **changes)


class GaussianModel(Model):
    """Data ~ N(mean, std^2): at level (s, n) the noisy data is N(s mean, s^2 std^2 + n^2), its score linear."""

    def __init__(self, schedule: Schedule, mean: float = 0.7, std: float = 0.4) -> None:
        self.schedule, self.mean, self.std = schedule, mean, std  # type: ignore[assignment]
        self.name, self.revision = "gaussian", "closed form"
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self.latent_channels, self.vae_scale_factor, self.sample_size = 1, 1, (4, 4)
        self.calls: list[float] = []

    def variance(self, level: Level) -> float:
        return level.signal**2 * self.std**2 + level.noise**2

    def predict(self, latents: Tensor, t: float | Sequence[float], condition: Condition) -> Tensor:
        assert isinstance(t, int | float)
        self.evaluations += len(latents)
        self.calls.append(t)
        level = self.schedule.level(t)
        eps = level.noise * (latents - level.signal * self.mean) / self.variance(level)
        x0 = self.mean + level.signal * self.std**2 / self.variance(level) * (latents - level.signal * self.mean)
        return join(Prediction(x0, eps), level, self.schedule.target)

    def flow(self, latents: Tensor, level: Level | float, level_to: Level | float) -> Tensor:
        """Where the exact probability-flow ODE carries latents from one level (or alpha_bar) to another."""
        start, end = (at if isinstance(at, Level) else Level.variance_preserving(at) for at in (level, level_to))
        scale = sqrt(self.variance(end) / self.variance(start))
        return end.signal * self.mean + scale * (latents - start.signal * self.mean)

    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        rows = 1 if isinstance(prompts, str) else len(prompts)
        return Condition(torch.zeros(rows, 1, 1))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents

    def sites(self, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
        return ()

    def kernel_hook(self, hook: Any, sites: Sequence[AttentionSite]) -> Any:
        return nullcontext()

    def source_hook(self, hook: Any, sites: Sequence[AttentionSite]) -> Any:
        return nullcontext()

    def feature_hook(self, layer_names: Sequence[str], hook: Any) -> Any:
        return nullcontext()

    def attention_projections(self) -> dict[str, tuple[int, int]]:
        return {}

    def projection_hook(self, names: Collection[str], hook: Any) -> Any:
        return nullcontext()
