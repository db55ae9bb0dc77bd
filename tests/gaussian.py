"""A model of Gaussian data, whose exact noise prediction and whose exact probability flow are known in closed form."""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from sfumato.models.base import AttentionSite, Condition, Model
from sfumato.models.schedules import Schedule


def cosine_schedule(timesteps: int = 4096, **changes: Any) -> Schedule:
    """Smooth levels from 0.9999 down to 0.001, so that a solver's order shows."""
    angle = torch.linspace(0.01, 1.54, timesteps, dtype=torch.float64)
    return Schedule(alphas_cumprod=torch.cos(angle) ** 2, spacing="trailing", **changes)


class GaussianModel(Model):
    """Data ~ N(mean, std^2): at level a the noisy data is N(sqrt(a) mean, a std^2 + 1 - a), its score linear."""

    def __init__(self, schedule: Schedule, mean: float = 0.7, std: float = 0.4) -> None:
        self.schedule, self.mean, self.std = schedule, mean, std
        self.name, self.revision = "gaussian", "closed form"
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self.latent_channels, self.vae_scale_factor, self.sample_size = 1, 1, (4, 4)
        self.calls: list[int] = []

    def variance(self, alpha_bar: float) -> float:
        return alpha_bar * self.std**2 + 1.0 - alpha_bar

    def predict(self, latents: Tensor, t: int | Sequence[int], condition: Condition) -> Tensor:
        assert isinstance(t, int)
        self.evaluations += len(latents)
        self.calls.append(t)
        level = self.schedule.alpha_bar(t)
        noise_pred = sqrt(1.0 - level) * (latents - sqrt(level) * self.mean) / self.variance(level)
        x0_pred = (latents - sqrt(1.0 - level) * noise_pred) / sqrt(level)
        targets = {
            "epsilon": noise_pred,
            "sample": x0_pred,
            "v_prediction": sqrt(level) * noise_pred - sqrt(1.0 - level) * x0_pred,
        }
        return targets[self.schedule.prediction_type]

    def flow(self, latents: Tensor, alpha_bar: float, alpha_bar_to: float) -> Tensor:
        """Where the exact probability-flow ODE carries latents from one level to another."""
        scale = sqrt(self.variance(alpha_bar_to) / self.variance(alpha_bar))
        return sqrt(alpha_bar_to) * self.mean + scale * (latents - sqrt(alpha_bar) * self.mean)

    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        rows = 1 if isinstance(prompts, str) else len(prompts)
        return Condition(torch.zeros(rows, 1, 1))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents

    def attention_sites(self, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
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
