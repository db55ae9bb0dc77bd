"""Levels: one formula for variance-preserving diffusions and for flows, and targets that convert into one another."""

from math import sqrt

import pytest
import torch
from torch import Tensor

from sfumato.models.schedules import Level, Prediction, Target, add_noise, join, split
from sfumato.sampling.ddim import ddim_std, ddim_step
from sfumato.sampling.ddpm import ddpm_step

ALPHA_BARS = [(0.01, 0.05), (0.3, 0.31), (0.5, 0.9), (0.9, 0.999), (0.98, 1.0)]


def draws(count: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(count, 2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("alpha_bars", ALPHA_BARS)
def test_a_variance_preserving_step_is_ddims(alpha_bars: tuple[float, float], eta: float) -> None:
    """Song et al., 2021, Eq. 12 and 16, as they are printed."""
    (a, a_prev), (latents, eps, z) = alpha_bars, draws(3)
    sigma = eta * sqrt((1 - a_prev) / (1 - a)) * sqrt(1 - a / a_prev)
    x0 = (latents - sqrt(1 - a) * eps) / sqrt(a)
    expected = sqrt(a_prev) * x0 + sqrt(max(1 - a_prev - sigma**2, 0.0)) * eps + sigma * z
    level, level_prev = Level.variance_preserving(a), Level.variance_preserving(a_prev)
    assert far(ddim_step(split(eps, latents, level, "noise"), level, level_prev, eta=eta, noise=z), expected) <= 1e-14
    assert ddim_std(level, level_prev, eta) == pytest.approx(sigma, abs=1e-14)


@pytest.mark.parametrize(("sigma", "sigma_prev"), [(1.0, 0.9), (0.5, 0.4), (0.1, 0.0), (0.0, 0.1), (0.7, 1.0)])
def test_a_step_along_a_flow_is_eulers(sigma: float, sigma_prev: float) -> None:
    latents, velocity = draws(2)
    level, level_prev = Level(1 - sigma, sigma), Level(1 - sigma_prev, sigma_prev)
    ours = ddim_step(split(velocity, latents, level, "flow"), level, level_prev)
    assert far(ours, latents + (sigma_prev - sigma) * velocity) <= 1e-14


VP, FLOW = Level.variance_preserving(0.3), Level(0.4, 0.6)


@pytest.mark.parametrize(
    ("target", "level"),
    [("noise", VP), ("velocity", VP), ("x0", VP), ("noise", FLOW), ("flow", FLOW), ("x0", FLOW)],
)
def test_targets_convert_into_one_another(target: Target, level: Level) -> None:
    x0, eps = draws(2)
    latents = add_noise(x0, eps, level)
    found = split(join(Prediction(x0, eps), level, target), latents, level, target)
    assert far(found.x0, x0) <= 1e-14
    assert far(found.eps, eps) <= 1e-14


@pytest.mark.parametrize("target", ["velocity", "flow"])
def test_no_end_divides_by_zero(target: Target) -> None:
    x0, eps = draws(2)
    for level in (Level(0.0, 1.0), Level(1.0, 0.0)):
        found = split(join(Prediction(x0, eps), level, target), add_noise(x0, eps, level), level, target)
        assert far(found.x0, x0) <= 1e-14
        assert far(found.eps, eps) <= 1e-14


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_an_ancestral_step_keeps_the_marginal_of_a_flow(variance: str) -> None:
    """From x at a level with x0 known, the posterior leads to x_prev of that level's own mean and variance."""
    level, level_prev = Level(0.3, 0.7), Level(0.5, 0.5)
    x0 = torch.full((200_000,), 1.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    eps, z = (torch.randn(len(x0), dtype=torch.float64, generator=generator) for _ in range(2))
    latents = add_noise(x0, eps, level)
    reached = ddpm_step(latents, Prediction(x0, eps), level, level_prev, noise=z, variance=variance)  # type: ignore[arg-type]
    assert float(reached.mean()) == pytest.approx(0.5 * 1.5, abs=0.01)
    assert (float(reached.std()) == pytest.approx(0.5, abs=0.01)) == (variance == "posterior")
