"""Translation between two models: exact maps of Gaussian data, round trips, and pairs that are refused."""

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.edits.two_models import bridge, reconstruct, translate
from sfumato.errors import ModelError, UsageError
from sfumato.images import read_recipe
from tests.gaussian import GaussianModel, cosine_schedule
from tests.toy_unconditional import toy_ddpm

STEPS = 5


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return toy_ddpm(0), toy_ddpm(1)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC)


def pixels(images: int = 1) -> Tensor:
    return torch.rand(images, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_the_bridge_of_gaussians_is_their_optimal_map() -> None:
    """N(m, s^2) to N(m', s'^2): the flows of both scale distances from the mean, so x goes to m' + s'/s (x - m)."""
    schedule = cosine_schedule(final_alpha_bar=1.0)
    model_a, model_b = GaussianModel(schedule, 0.7, 0.4), GaussianModel(schedule, -0.2, 0.8)
    points = torch.linspace(0, 1.5, 16, dtype=torch.float64).view(1, 1, 4, 4)
    level = schedule.alpha_bar(schedule.timesteps(64)[0])
    exact = model_b.flow(model_a.flow(points, 1.0, level), level, 1.0)
    torch.testing.assert_close(exact, -0.2 + 2.0 * (points - 0.7), rtol=0, atol=0.05)  # the last level holds a trace
    errors = [
        far(bridge(model_a, model_b, points, num_inference_steps=steps).latents, exact) for steps in (64, 128, 256)
    ]
    assert errors[2] < 0.02
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert 1.7 < errors[1] / errors[2] < 2.3


def test_the_bridge_leads_back() -> None:
    schedule = cosine_schedule(final_alpha_bar=1.0)
    model_a, model_b = GaussianModel(schedule, 0.7, 0.4), GaussianModel(schedule, -0.2, 0.8)
    points = torch.linspace(0, 1.5, 16, dtype=torch.float64).view(1, 1, 4, 4)
    errors = []
    for steps in (50, 100):
        there = bridge(model_a, model_b, points, num_inference_steps=steps).latents
        assert far(there, points) > 0.5
        errors.append(far(bridge(model_b, model_a, there, num_inference_steps=steps).latents, points))
    assert errors[1] < 0.05
    assert errors[1] < 0.6 * errors[0]


def test_one_model_gives_its_picture_back(pair: Any) -> None:
    model_a, model_b = pair
    found = translate(model_a, model_a, pixels(), num_inference_steps=STEPS, generator=generator())
    assert far(found.latents, pixels()) < 1e-4
    other = translate(model_a, model_b, pixels(), num_inference_steps=STEPS, generator=generator())
    assert far(other.latents, pixels()) > 0.1
    assert far(reconstruct(model_a, other.inversion), pixels()) < 1e-4
    assert torch.equal(other.latents, other.unrefined)


def test_less_strength_keeps_more(pair: Any) -> None:
    kept = [
        far(translate(*pair, pixels(), num_inference_steps=10, strength=s, generator=generator()).latents, pixels())
        for s in (0.2, 0.5, 1.0)
    ]
    assert kept[0] < kept[1] < kept[2]


def test_refining_moves_the_result_only(pair: Any) -> None:
    options: dict[str, Any] = {"num_inference_steps": 10, "strength": 0.5}
    plain = translate(*pair, pixels(), generator=generator(), **options)
    refined = translate(*pair, pixels(), refine_strength=0.2, generator=generator(), **options)
    assert torch.equal(refined.unrefined, plain.latents)
    assert 1e-3 < far(refined.latents, plain.latents) < far(plain.latents, pixels())


def test_prompts_count_for_models_of_text(toy_model: Any, toy_velocity_model: Any) -> None:
    latents = torch.randn(1, 4, 16, 16, generator=generator()) * 0.5
    options: dict[str, Any] = {"source_prompt": "a cat", "num_inference_steps": 4, "strength": 0.75}
    same = translate(toy_model, toy_model, latents, target_prompt="a cat", generator=generator(), **options)
    assert far(same.latents, latents) < 1e-4
    edited = translate(toy_model, toy_model, latents, target_prompt="a dog", generator=generator(), **options)
    assert far(edited.latents, latents) > 1e-4
    other = translate(toy_model, toy_velocity_model, latents, target_prompt="a cat", generator=generator(), **options)
    assert far(other.latents, latents) > 1e-2


def test_a_batch_equals_single_pictures(pair: Any) -> None:
    draws = torch.randn(4, 2, 3, 16, 16, generator=generator())
    refining = torch.randn(3, 2, 3, 16, 16, generator=generator())
    options: dict[str, Any] = {"num_inference_steps": STEPS, "strength": 0.8, "refine_strength": 0.4}
    both = translate(*pair, pixels(2), noise=draws, refine_noise=refining, **options).latents
    for k in range(2):
        one = translate(
            *pair, pixels(2)[[k]], noise=draws[:, [k]], refine_noise=refining[:, [k]], **options
        )  # fmt: skip
        assert far(both[[k]], one.latents) < 1e-5


def test_evaluations_are_as_told(pair: Any) -> None:
    model_a, model_b = pair
    before = model_a.evaluations, model_b.evaluations
    translate(*pair, pixels(2), num_inference_steps=10, strength=0.5, refine_strength=0.2, refine_repeats=2)
    assert (model_a.evaluations - before[0], model_b.evaluations - before[1]) == (2 * 5, 2 * (5 + 2 * 2))
    before = model_a.evaluations, model_b.evaluations
    bridge(*pair, pixels(), num_inference_steps=10, strength=0.5)
    assert (model_a.evaluations - before[0], model_b.evaluations - before[1]) == (5, 5)


def test_pairs_that_do_not_fit_are_refused_before_any_work(pair: Any, toy_model: Any) -> None:
    model_a, model_b = pair
    cosine = toy_ddpm(scheduler=DDIMScheduler(beta_schedule="squaredcos_cap_v2"))
    before = model_a.evaluations + model_b.evaluations + toy_model.evaluations
    for run in (translate, bridge):
        with pytest.raises(ModelError, match="4 at 1/8: translate between models whose latents have one shape"):
            run(model_a, toy_model, pixels())
        with pytest.raises(UsageError, match=r"latents must be \(image, 4, height, width\)"):
            run(toy_model, toy_model, pixels())
        with pytest.raises(UsageError, match="use strength 1, or models with the same noise schedule"):
            run(model_a, cosine, pixels(), strength=0.5)
        with pytest.raises(UsageError, match="strength"):
            run(model_a, model_b, pixels(), strength=0.0)
    run_with: Any = translate
    with pytest.raises(UsageError, match="eta=0 adds no noise"):
        run_with(model_a, model_b, pixels(), eta=0.0)
    with pytest.raises(UsageError, match=r"strength must be in \[0, 1\], got 2"):
        run_with(model_a, model_b, pixels(), refine_strength=2.0)
    with pytest.raises(UsageError, match="noise must be"):
        run_with(model_a, model_b, pixels(), noise=torch.zeros(3, 1, 3, 16, 16))
    assert model_a.evaluations + model_b.evaluations + toy_model.evaluations == before


def test_pictures_go_in_and_come_out(pair: Any, picture: Image.Image, tmp_path: Path) -> None:
    result = sfumato.translate(*pair, picture, num_inference_steps=STEPS, strength=0.8, reconstruct_source=True, seed=4)
    assert result.image.size == (16, 16)
    assert result.cost.evaluations == 3 * 4
    assert result.reconstruction_psnr is not None
    assert result.reconstruction_psnr > 40 > result.faithfulness_psnr
    recipe = read_recipe(result.save(tmp_path / "out.png"))
    assert recipe["models"] == ["toy-0", "toy-1"]
    assert recipe["options"] == {"strength": 0.8}
    again = sfumato.translate(*pair, picture, num_inference_steps=STEPS, strength=0.8, seed=4)
    other = sfumato.translate(*pair, picture, num_inference_steps=STEPS, strength=0.8, seed=5)
    assert again.image.tobytes() == result.image.tobytes() != other.image.tobytes()
    assert again.reconstruction is None


def test_the_bridge_of_pictures(pair: Any, picture: Image.Image) -> None:
    model_a, model_b = pair
    result = sfumato.translate(model_a, model_b, picture, method="ddib", num_inference_steps=STEPS)
    assert result.cost.evaluations == 2 * STEPS
    same = sfumato.translate(model_a, model_a, picture, method="ddib", num_inference_steps=STEPS)
    assert same.cost.evaluations == 2 * STEPS  # one model is not billed twice
    assert same.faithfulness_psnr > result.faithfulness_psnr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cyclegan"}, "method must be one of cycle-diffusion, ddib"),
        ({"method": "ddib", "eta": 0.5}, "leave out eta"),
        ({"method": "ddib", "source_guidance_scale": 2.0}, "ddib inverts without guidance"),
        ({"guidance_scale": 0.5}, r"guidance_scale must be in \[1, 100\]"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
    ],
)
def test_wrong_arguments_of_the_driver(pair: Any, picture: Image.Image, options: Any, message: str) -> None:
    before = pair[0].evaluations
    with pytest.raises(UsageError, match=message):
        sfumato.translate(*pair, picture, **options)
    assert pair[0].evaluations == before


def test_levels_may_differ_at_full_strength(pair: Any) -> None:
    cosine = toy_ddpm(1, scheduler=DDIMScheduler(beta_schedule="squaredcos_cap_v2"))
    found = translate(pair[0], cosine, pixels(), num_inference_steps=STEPS, strength=1.0, generator=generator())
    assert bool(torch.isfinite(found.latents).all())
    assert sqrt(cosine.schedule.alpha_bar(800)) != pytest.approx(sqrt(pair[0].schedule.alpha_bar(800)), abs=0.02)
