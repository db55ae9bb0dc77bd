"""Fixed-point inversion: on Gaussian data it is exact in the limit, and what is left over is told."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.fixed_point import fixed_point_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.gaussian import GaussianModel, cosine_schedule
from tests.inversions.test_deterministic import MODELS, SOURCE, clean
from tests.inverting import inverted


def gaussian_clean(model: GaussianModel, images: int = 2) -> Tensor:
    drawn = torch.randn(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model.mean + model.std * drawn


def replay(model: Any, found: Inversion, prompt: str, scale: float = 1.0) -> Tensor:
    branch = {"source": Branch(model.encode_prompt(prompt), guidance_scale=scale)}
    return sample(model, found.noise, branch, timesteps=found.timesteps)[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_solved_steps_lead_back_to_rounding(prediction: Any) -> None:
    final = float(cosine_schedule().alphas_cumprod[0])  # at level 1 clean latents tell nothing of the noise
    model = GaussianModel(cosine_schedule(prediction_type=prediction, final_alpha_bar=final))
    latents, condition = gaussian_clean(model), model.encode_prompt("x")
    found = fixed_point_inversion(
        InversionTask(model, latents, condition, num_inference_steps=12), iterations=200, tolerance=1e-15
    )
    assert float((replay(model, found, "x") - latents).abs().max()) < 1e-12
    plain = ddim_inversion(InversionTask(model, latents, condition, num_inference_steps=12))
    assert float((replay(model, plain, "x") - latents).abs().max()) > 1e-2


def test_each_step_of_the_trajectory_is_solved() -> None:
    model = GaussianModel(cosine_schedule())
    found = fixed_point_inversion(
        InversionTask(model, gaussian_clean(model), model.encode_prompt("x"), num_inference_steps=12),
        iterations=50,
        tolerance=1e-6,
    )
    seen = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        seen.append((latents[0] - found.latents_at(step.index + 1)).abs().max())
        return found.latents_at(step.index + 1)[None]  # on from where it should be

    branch = {"source": Branch(model.encode_prompt("x"))}
    sample(model, found.noise, branch, timesteps=found.timesteps, on_step=[keep])
    assert float(max(seen)) < 1e-5


def test_residuals_fall_and_solved_images_are_not_asked_again() -> None:
    model = GaussianModel(cosine_schedule())
    latents = gaussian_clean(model)
    latents[1] = model.mean  # on the mean's own path
    found = fixed_point_inversion(
        InversionTask(model, latents, model.encode_prompt("x"), num_inference_steps=12), iterations=50, tolerance=1e-6
    )
    assert found.residuals is not None
    asked = found.residuals.isfinite().sum(dim=-1)  # (steps, image)
    assert model.evaluations == 2 + int(asked.sum())
    assert bool((asked[:, 0] != asked[:, 1]).any())
    for step, image in ((2, 0), (8, 0), (8, 1)):
        history = found.residuals[step, image, : int(asked[step, image])]
        assert bool((history[1:] < history[:-1]).all())
        assert float(history[-1]) <= 1e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:fixed-point inversion did not")
def test_the_source_comes_back_nearer_than_by_ddim(name: str, request: Any) -> None:
    model = request.getfixturevalue(name)
    condition = model.encode_prompt(SOURCE)
    options: dict[str, Any] = {"timesteps": [241, 161, 81, 1]}  # random weights contract where there is little noise
    solved = inverted(fixed_point_inversion, model, clean(), condition, guidance_scale=1.5, **options)
    plain = inverted(ddim_inversion, model, clean(), condition, **options)
    miss, plain_miss = (float((replay(model, found, SOURCE, 1.5) - clean()).norm()) for found in (solved, plain))
    assert miss < 0.25 * plain_miss


def test_unsolved_steps_are_told(toy_model: Any) -> None:
    condition = toy_model.encode_prompt(SOURCE)
    with pytest.warns(UserWarning, match=r"did not solve 4 of 4 steps to 1e-07 \(worst relative residual .*iterations"):
        fixed_point_inversion(
            InversionTask(toy_model, clean(), condition, num_inference_steps=4), iterations=2, tolerance=1e-8
        )


def test_an_iteration_that_runs_away_keeps_its_best(toy_model: Any) -> None:
    condition = toy_model.encode_prompt(SOURCE)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 60.0, "tolerance": 1e-7}
    with pytest.warns(UserWarning, match="did not solve"):
        found = inverted(fixed_point_inversion, toy_model, clean(), condition, iterations=12, **options)
    assert found.residuals is not None
    last, best = found.residuals[..., -1], found.residuals.amin(dim=-1)
    assert float((last / best).max()) > 1.01  # it did run away, or this says nothing
    assert bool(torch.isfinite(found.noise).all())
    seen: list[Tensor] = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        seen.append(latents[0])
        return latents

    branch = {"source": Branch(condition, guidance_scale=60.0)}
    sample(toy_model, found.noise, branch, timesteps=found.timesteps, on_step=[keep])
    aim = found.latents_at(len(found.timesteps) - 1)
    miss = float((seen[0] - aim).norm() / aim.norm())
    assert miss == pytest.approx(float(best[0, 0]), rel=1e-3)  # what is reported is what was kept
