"""Regularised DDIM inversion: closed forms, shapes of any kind, and that it leaves noise like noise. The authors'
numbers: conformance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.regularised_ddim import regularised_ddim_inversion, released_moves
from sfumato.inversions.task import InversionTask
from sfumato.inversions.white_noise import (
    auto_correlation,
    draw_rolls,
    gaussian_divergence,
    pyramid_levels,
    regularised,
)
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.gaussian import GaussianModel, cosine_schedule
from tests.inverting import inverted


def seeded(*shape: int, seed: int = 0, **options: Any) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def rolls_for(shape: tuple[int, int, int], *draws: int, seed: int = 0) -> Tensor:
    return draw_rolls(shape, draws, torch.Generator().manual_seed(seed))


def test_auto_correlation_against_the_sum_written_out() -> None:
    noise, rolls = seeded(2, 3, 32, 16, dtype=torch.float64), rolls_for((3, 32, 16), 1)[0]
    found = auto_correlation(noise, rolls)
    assert found.shape == (2, 3, 2)
    for image in range(2):
        for channel in range(3):
            level = noise[image, channel]
            for k in range(2):
                height, width = level.shape
                down, right = (int(r) for r in rolls[channel, k])
                vertical = sum(level[y, x] * level[(y - down) % height, x] for y in range(height) for x in range(width))
                sideways = sum(level[y, x] * level[y, (x - right) % width] for y in range(height) for x in range(width))
                expected = (vertical / level.numel()) ** 2 + (sideways / level.numel()) ** 2
                assert float(found[image, channel, k]) == pytest.approx(float(expected), rel=1e-10)
                level = level.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).mean(dim=(1, 3))


def test_offsets_for_both_axes_or_each() -> None:
    noise, rolls = seeded(1, 2, 16, 16), torch.tensor([[3, 2], [1, 3]])
    assert torch.equal(auto_correlation(noise, rolls), auto_correlation(noise, torch.stack([rolls, rolls], dim=-1)))


def test_a_standard_normal_costs_nothing() -> None:
    """2 KL(N(mu, s^2) || N(0, 1)) = s^2 + mu^2 - 1 - log s^2, for each image by itself."""
    exact = torch.linspace(-3, 3, 256, dtype=torch.float64).view(1, 1, 16, 16)
    exact = exact / exact.flatten().std()
    maps = torch.cat([exact, 2.0 * exact + 0.5])
    expected = torch.tensor([0.0, 4.0 + 0.25 - 1.0 - torch.log(torch.tensor(4.0))], dtype=torch.float64)
    assert torch.allclose(gaussian_divergence(maps), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "levels"),
    [((64, 64), 4), ((32, 32), 3), ((16, 16), 2), ((64, 96), 4), ((24, 40), 2), ((8, 8), 1), ((4, 6), 1)],
)
def test_pyramid_and_draws(size: tuple[int, int], levels: int) -> None:
    assert pyramid_levels(*size) == levels
    rolls = rolls_for((4, *size), 50)
    assert rolls.shape == (50, 4, levels, 2)
    for level in range(levels):
        for axis, side in enumerate(size):
            drawn = rolls[:, :, level, axis]
            assert int(drawn.min()) == 1
            assert int(drawn.max()) == max((side >> level) // 2 - 1, 1)


def test_correlated_noise_becomes_white() -> None:
    stripes = seeded(1, 4, 64, 64) + 0.7 * torch.sin(torch.arange(64) * torch.pi / 4) + 0.3
    fresh = rolls_for((4, 64, 64), 40, seed=9)

    def measure(noise: Tensor) -> tuple[float, float]:
        correlation = torch.stack([auto_correlation(noise, r).sum() for r in fresh]).mean()
        return float(correlation), float(gaussian_divergence(noise))

    before, after = measure(stripes), measure(regularised(stripes, rolls_for((4, 64, 64), 30, 5)))
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.5 * before[1]


def test_weights_of_zero_change_nothing() -> None:
    noise = seeded(1, 4, 16, 16)
    assert torch.equal(regularised(noise, rolls_for((4, 16, 16), 2, 2), 0.0, 0.0), noise)
    assert torch.equal(regularised(noise, rolls_for((4, 16, 16), 0, 2)), noise)


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_off_it_is_ddim_inversion(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    clean, condition = 0.5 * seeded(1, 4, 16, 16), model.encode_prompt("a photo of a cat")
    plain = ddim_inversion(InversionTask(model, clean, condition, num_inference_steps=4))
    before = model.evaluations
    off = regularised_ddim_inversion(
        InversionTask(model, clean, condition, num_inference_steps=4), regularisation_rounds=0
    )
    assert model.evaluations - before == 4
    assert off.trajectory is not None
    assert plain.trajectory is not None
    assert far(off.trajectory, plain.trajectory) < 1e-5
    on = regularised_ddim_inversion(InversionTask(model, clean, condition, num_inference_steps=4))
    assert far(on.noise, plain.noise) > 1e-4
    assert on.timesteps == plain.timesteps


def test_the_round_trip_closes_with_the_steps() -> None:
    """On Gaussian data: the regularised noise leads back, the better the finer the grid (first order)."""
    model = GaussianModel(cosine_schedule())
    clean = 0.7 + 0.4 * seeded(1, 1, 16, 16, dtype=torch.float64)
    condition, errors = model.encode_prompt("x"), []
    for steps in (32, 64, 128):
        found = regularised_ddim_inversion(
            InversionTask(
                model, clean, condition, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)
            ),
            correlation_weight=0.05,
            gaussian_weight=0.05,
            regularisation_rounds=1,
            rolls_per_round=2,
        )
        back = sample(model, found.noise, {"source": Branch(condition)}, timesteps=found.timesteps)
        errors.append(far(back[0], clean))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2


def test_a_batch_equals_single_runs(toy_model: Any) -> None:
    clean, condition = 0.5 * seeded(3, 4, 16, 24), toy_model.encode_prompt("a cat")

    def run(latents: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        return regularised_ddim_inversion(
            InversionTask(toy_model, latents, condition, num_inference_steps=3, generator=generator)
        ).noise

    together = run(clean)
    for image in range(3):
        assert far(together[image], run(clean[image : image + 1])[0]) < 1e-5


def test_draws_are_the_generators_or_given(toy_model: Any) -> None:
    clean, condition = 0.5 * seeded(1, 4, 16, 16), toy_model.encode_prompt("a cat")

    def run(**options: Any) -> Tensor:
        return inverted(regularised_ddim_inversion, toy_model, clean, condition, num_inference_steps=3, **options).noise

    given = run(rolls=rolls_for((4, 16, 16), 3, 5, 5, seed=7))
    assert torch.equal(given, run(generator=torch.Generator().manual_seed(7)))
    assert not torch.equal(given, run(generator=torch.Generator().manual_seed(8)))


def test_the_released_grid_is_two_steps_shorter(toy_model: Any) -> None:
    condition, before = toy_model.encode_prompt("a cat"), toy_model.evaluations
    found = regularised_ddim_inversion(
        InversionTask(toy_model, 0.5 * seeded(1, 4, 16, 16), condition, num_inference_steps=5), grid="released"
    )
    assert toy_model.evaluations - before == 3
    assert len(found.timesteps) == 5
    assert found.trajectory is None
    moves = released_moves(toy_model.schedule, found.timesteps)
    assert [move.time for move in moves] == [201, 401, 601]
    assert moves[0].level == toy_model.schedule.level(200)
    assert moves[-1].level_next == toy_model.schedule.level(800)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rolls": torch.ones(2, 5, 5, 4, 2)}, r"4 steps, 4 channels and 2 levels, got \(2, 5, 5, 4, 2\)"),
        ({"rolls": torch.ones(4, 5, 5, 4, 3)}, "2 levels"),
        ({"rolls": torch.ones(4, 5, 4, 2)}, "rolls must be"),
        ({"num_inference_steps": 2, "grid": "released"}, "at least 3 steps, got 2"),
        ({"num_inference_steps": 0}, "num_inference_steps must be"),
    ],
)
def test_mistakes_are_named_before_any_work(toy_model: Any, options: Any, message: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        inverted(
            regularised_ddim_inversion,
            toy_model,
            seeded(1, 4, 16, 16),
            toy_model.encode_prompt("a cat"),
            **{"num_inference_steps": 4} | options,
        )
    assert toy_model.evaluations == before
