"""DPM-Encoder and edit-friendly DDPM: round trips, the statistics of their draws, both quirks, loud failures."""

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import InversionError, UsageError
from sfumato.inversions.noise_maps import NoiseCoupling, dpm_encoder, edit_friendly_inversion, noise_map_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.gaussian import GaussianModel, cosine_schedule
from tests.inverting import inverted

COUPLINGS: tuple[NoiseCoupling, ...] = ("posterior", "independent")


def gaussian(**changes: Any) -> GaussianModel:
    """Ends above level 0, as latent models do, so that the last step has noise."""
    return GaussianModel(cosine_schedule(**({"final_alpha_bar": 0.99995} | changes)))


def invert(
    model: Any, clean: Tensor, coupling: NoiseCoupling = "posterior", *, steps: int = 6, **options: Any
) -> Inversion:
    options = {"eta": 0.4, "generator": torch.Generator().manual_seed(0)} | options
    condition = model.encode_prompt("a photo of a cat")
    return inverted(
        noise_map_inversion, model, clean, condition, coupling=coupling, num_inference_steps=steps, **options
    )


def back(model: Any, found: Inversion) -> Tensor:
    branch = {"source": Branch(model.encode_prompt("a photo of a cat"), guidance_scale=found.guidance_scale)}
    return sample(
        model, found.noise, branch, timesteps=found.timesteps, start_index=found.start_index, eta=found.eta,
        replay=found,
    )[0]  # fmt: skip


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.01, 0.4, 1.0])
def test_the_picture_comes_back_at_rounding_level(coupling: NoiseCoupling, prediction_type: str, eta: float) -> None:
    model = gaussian(prediction_type=prediction_type)
    clean = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    found = invert(model, clean, coupling, eta=eta)
    assert far(back(model, found), clean) < 1e-12


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_networks_give_the_picture_back_also_under_guidance(name: str, coupling: NoiseCoupling, request: Any) -> None:
    model = request.getfixturevalue(name)
    clean = torch.randn(1, 4, 16, 16)
    found = invert(model, clean, coupling, steps=3, guidance_scale=3.0)
    assert found.noise_maps is not None
    assert found.noise_maps.dtype == torch.float32
    assert far(back(model, found), clean) < 1e-4


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_every_level_has_the_forward_process_distribution(coupling: NoiseCoupling) -> None:
    """A wrong posterior shows in the variance of some level: the marginals are q(x_t | x_0) for both."""
    model, clean = gaussian(), torch.full((4000, 1, 4, 4), 0.7, dtype=torch.float64)
    found = invert(model, clean, coupling, eta=0.6)
    for index, t in enumerate(found.timesteps):
        level, latents = model.schedule.alpha_bar(t), found.latents_at(index)
        noise = (latents - sqrt(level) * clean) / sqrt(1.0 - level)
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
        assert float(noise.std()) == pytest.approx(1.0, abs=0.01)


def test_neighbouring_levels_are_joined_as_each_method_says() -> None:
    model, clean = gaussian(), torch.zeros(4000, 1, 4, 4, dtype=torch.float64)

    def correlation(coupling: NoiseCoupling, eta: float) -> float:
        found = invert(model, clean, coupling, eta=eta)
        first, second = (found.latents_at(index).flatten() for index in (1, 2))
        return float(torch.corrcoef(torch.stack([first, second]))[0, 1])

    assert correlation("independent", 0.01) == pytest.approx(0.0, abs=0.02)
    assert correlation("posterior", 0.01) > 0.99  # eta near 0: hardly any fresh noise
    assert correlation("posterior", 1.0) < 0.9


def test_maps_of_data_under_its_exact_model_are_standard_normal() -> None:
    """With posterior draws and many DDPM steps the encoder inverts the exact generative process."""
    model = gaussian()
    clean = model.mean + model.std * torch.randn(
        500, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    maps = invert(model, clean, "posterior", steps=128, eta=1.0).noise_maps
    independent = invert(model, clean, "independent", steps=128, eta=1.0).noise_maps
    assert maps is not None
    assert independent is not None
    middle = slice(10, 118)
    assert float(maps[middle].mean()) == pytest.approx(0.0, abs=0.02)
    assert float(maps[middle].std()) == pytest.approx(1.0, abs=0.03)
    assert float(independent[middle].std()) > 2.0  # what makes that space editable, their figure 5


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_given_draws_are_used_level_by_level(coupling: NoiseCoupling) -> None:
    model, clean = gaussian(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    noise = torch.randn(6, 2, 1, 4, 4, dtype=torch.float64)
    whole = invert(model, clean, coupling, noise=noise)
    for image in range(2):  # a batch equals single runs
        one = invert(model, clean[[image]], coupling, noise=noise[:, [image]])
        assert whole.noise_maps is not None
        assert one.noise_maps is not None
        assert torch.allclose(whole.noise_maps[:, [image]], one.noise_maps, atol=1e-9)
    level = model.schedule.alpha_bar(whole.timesteps[0])
    assert torch.allclose(whole.noise, sqrt(level) * clean + sqrt(1 - level) * noise[0])


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_later_start_encodes_the_rest_of_the_grid_only(coupling: NoiseCoupling, tmp_path: Path) -> None:
    model, clean = gaussian(), torch.randn(1, 1, 4, 4, dtype=torch.float64)
    before = model.evaluations
    found = invert(model, clean, coupling, start_index=4)
    assert model.evaluations - before == 2
    assert found.noise_maps is not None
    assert not found.noise_maps[:4].any()
    assert torch.equal(found.noise, found.latents_at(4))
    assert far(back(model, found), clean) < 1e-12
    with pytest.raises(InversionError, match="holds no latents before step 4 of"):
        found.latents_at(3)
    again = Inversion.load(found.save(tmp_path / "partial.safetensors"))
    assert again.start_index == 4
    assert torch.equal(again.noise_maps, found.noise_maps)


def test_the_cost_is_what_the_docstring_says(toy_model: Any) -> None:
    clean = torch.randn(2, 4, 16, 16)
    for options, rows in (
        ({}, 1),
        ({"guidance_scale": 2.0}, 2),
        ({"guidance_scale": 2.0, "negative": toy_model.encode_prompt("a photo of a cat")}, 1),
    ):
        before = toy_model.evaluations
        invert(toy_model, clean, steps=2, **options)
        assert toy_model.evaluations - before == 2 * 2 * rows


def test_a_schedule_that_ends_without_noise_leaves_the_last_map_empty() -> None:
    model, clean = gaussian(final_alpha_bar=1.0), 0.7 + 0.4 * torch.randn(50, 1, 4, 4, dtype=torch.float64)
    found = invert(model, clean, steps=50)
    assert found.noise_maps is not None
    assert not found.noise_maps[-1].any()
    assert 1e-12 < far(back(model, found), clean) < 0.1


def test_the_released_eta_is_ddim_at_its_root_with_scaled_maps() -> None:
    """Walks the released formula, eta var in the direction term, over the maps that we find."""
    model, clean, eta = gaussian(), torch.randn(2, 1, 4, 4, dtype=torch.float64), 0.3
    condition = model.encode_prompt("")
    found = edit_friendly_inversion(
        InversionTask(model, clean, condition, guidance_scale=1.0, num_inference_steps=6), eta=eta, released_eta=True
    )
    assert found.eta == sqrt(eta)
    assert found.noise_maps is not None
    latents = found.noise
    for step in model.schedule.steps(6):
        noise_pred = model.predict_noise(latents, step.time, condition)
        alpha_bar, alpha_bar_prev = (model.schedule.alpha_bar(t) for t in (step.time, step.time_prev))
        x0 = (latents - sqrt(1 - alpha_bar) * noise_pred) / sqrt(alpha_bar)
        var = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        mean = sqrt(alpha_bar_prev) * x0 + sqrt(1 - alpha_bar_prev - eta * var) * noise_pred
        latents = mean + eta * sqrt(var) * found.noise_maps[step.index] / sqrt(eta)
    assert far(latents, clean) < 1e-12


def test_dropping_the_last_map_changes_nothing_else() -> None:
    model, clean = gaussian(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    noise = torch.randn(6, 2, 1, 4, 4, dtype=torch.float64)
    options: dict[str, Any] = {"guidance_scale": 1.0, "num_inference_steps": 6, "noise": noise}
    kept, dropped = (
        inverted(edit_friendly_inversion, model, clean, model.encode_prompt(""), drop_last_map=drop, **options)
        for drop in (False, True)
    )
    assert kept.noise_maps is not None
    assert dropped.noise_maps is not None
    assert kept.noise_maps[-1].any()
    assert not dropped.noise_maps[-1].any()
    assert torch.equal(kept.noise_maps[:-1], dropped.noise_maps[:-1])
    assert far(back(model, dropped), clean) > 1e-4
    assert torch.equal(dropped.clean, clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.0}, "eta=0 adds no noise.*'ddim'"),
        ({"eta": 1.5}, r"eta must be in \(0, 1\], got 1.5"),
        ({"strength": 0.0}, "leaves none of 6 steps"),
        ({"strength": 1.2}, r"strength must be in \[0, 1\], got 1.2"),
        ({"noise": torch.zeros(5, 1, 1, 4, 4)}, r"noise must be \(6, 1, 1, 4, 4\)"),
    ],
)
@pytest.mark.parametrize("function", [dpm_encoder, edit_friendly_inversion])
def test_mistakes_are_named_before_any_work(function: Any, options: Any, message: str) -> None:
    model = gaussian()
    with pytest.raises(UsageError, match=message):
        function(
            InversionTask(model, torch.zeros(1, 1, 4, 4), model.encode_prompt(""), num_inference_steps=6), **options
        )
    assert model.evaluations == 0
