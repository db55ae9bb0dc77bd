"""Langevin sampling of the code against closed forms, energies as objects, mistakes named. Authors: conformance."""

from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.guidance.energies import (
    ClassLabel,
    Quadratic,
    TextAgreement,
    WeightedSum,
    evaluated,
    low_pass,
    random_views,
)
from sfumato.guidance.langevin import LangevinResult, code_decoder, code_of, energy_gradient, langevin
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import dpm_encoder
from sfumato.inversions.task import InversionTask
from tests.gaussian import GaussianModel, cosine_schedule

SHAPE = (4, 2, 1, 4, 4)


@pytest.fixture
def gaussian() -> GaussianModel:
    return GaussianModel(cosine_schedule())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decoder(model: Any, **options: Any) -> Any:
    given = {"eta": 1.0, "num_inference_steps": 3, "pixels": False}
    return code_decoder(model, model.encode_prompt("a cat"), **(given | options))


def test_without_energies_codes_become_normal() -> None:
    """z' = (1 - h/2) z + sqrt(h) xi leaves N(0, 1 / (1 - h/4)) as it is."""
    start = normal(3, 1, 1, 100, 100) * 3
    found = langevin(start, lambda code: code[0], (), step_size=0.5, generator=torch.Generator().manual_seed(1))
    assert float(found.code.var()) == pytest.approx(1 / (1 - 0.5 / 4), rel=0.03)
    assert abs(float(found.code.mean())) < 0.03


def test_without_noise_the_code_of_least_energy_is_found(gaussian: GaussianModel) -> None:
    """The sampler of Gaussian data is linear, x = c + sum_i a_i z_i, so the minimum is known."""
    decode, weight = decoder(gaussian), 2.0
    with torch.no_grad():
        zero = torch.zeros(4, 1, 1, 4, 4, dtype=torch.float64)
        offset = decode(zero)[0, 0, 0, 0]
        slopes = []
        for row in range(4):
            unit = zero.clone()
            unit[row] = 1.0
            slopes.append(decode(unit)[0, 0, 0, 0] - offset)
    slope = torch.stack(slopes)
    target = torch.full((1, 1, 4, 4), 1.5, dtype=torch.float64)
    best = weight * slope * (1.5 - offset) / (1 + weight * slope.square().sum())
    found = langevin(
        normal(4, 1, 1, 4, 4), decode, [(weight, Quadratic(target))], num_langevin_steps=200, step_size=0.2,
        noise=torch.zeros(200, 4, 1, 1, 4, 4, dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(found.code, best.view(4, 1, 1, 1, 1).expand_as(found.code), rtol=1e-4, atol=1e-4)
    total = found.energies[:, 0] + weight * found.energies[:, 1]
    assert bool((total.diff(dim=0) <= 1e-9).all())


def test_the_gradient_is_the_finite_difference(toy_model: Any) -> None:
    model = toy_model
    decode = decoder(model, guidance_scale=2.0)
    code, direction = normal(4, 1, 4, 16, 16).float(), normal(4, 1, 4, 16, 16, seed=1).float()
    energy = Quadratic(torch.zeros(1, 4, 16, 16))
    gradient, values, images = energy_gradient(code, decode, [(0.5, energy)])
    step = 1e-2
    with torch.no_grad():
        ends = [0.5 * energy(decode(code + sign * step * direction).double()) for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-2)
    torch.testing.assert_close(values[0, 0], 0.5 * code.square().sum())
    torch.testing.assert_close(values[1], energy(images))


def test_checkpointing_changes_memory_and_not_numbers(toy_model: Any) -> None:
    code, energy = normal(4, 1, 4, 16, 16).float(), [(1.0, Quadratic(torch.zeros(1, 4, 16, 16)))]
    plain, kept = (
        energy_gradient(code, decoder(toy_model, checkpointed=flag, guidance_scale=3.0), energy)[0]
        for flag in (False, True)
    )
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-5)
    assert float(plain.norm()) > 0


def test_the_code_of_a_picture_decodes_to_it(toy_model: Any) -> None:
    clean, condition = 0.5 * normal(1, 4, 16, 16).float(), toy_model.encode_prompt("a cat")
    for strength in (1.0, 0.5):
        inversion = dpm_encoder(
            InversionTask(toy_model, clean, condition, num_inference_steps=4), eta=0.5, strength=strength
        )
        decode = decoder(toy_model, eta=0.5, num_inference_steps=4, start_index=inversion.start_index)
        with torch.no_grad():
            torch.testing.assert_close(decode(code_of(inversion)), clean, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="'ddim' keeps no noise maps"):
        code_of(ddim_inversion(InversionTask(toy_model, clean, condition, num_inference_steps=2)))


def run(model: Any, code: Tensor, target: Tensor, steps: int = 3, **options: Any) -> LangevinResult:
    options = {"noise": normal(steps, *code.shape, seed=7)} | options
    return langevin(code, decoder(model), [(1.0, Quadratic(target))], num_langevin_steps=steps, **options)


def test_a_batch_equals_single_chains(gaussian: GaussianModel) -> None:
    code, target, noise = normal(*SHAPE), normal(2, 1, 4, 4, seed=1), normal(3, *SHAPE, seed=2)
    both = run(gaussian, code, target, noise=noise)
    for k in range(2):
        one = run(gaussian, code[:, [k]], target[[k]], noise=noise[:, :, [k]])
        torch.testing.assert_close(both.code[:, [k]], one.code)
        torch.testing.assert_close(both.energies[:, :, [k]], one.energies)


def test_the_metric_keeps_the_best_code_of_each_chain(gaussian: GaussianModel) -> None:
    seen: list[Tensor] = []

    def height(images: Tensor) -> Tensor:
        seen.append(images.detach().mean(dim=(1, 2, 3)))
        return seen[-1]

    code, target = normal(*SHAPE), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    found = run(gaussian, code, target, steps=8, step_size=0.5, metric=height)
    assert len(seen) == 9  # before every step, and at the end
    assert found.metric is not None
    torch.testing.assert_close(found.metric, torch.stack(seen).amin(dim=0))
    with torch.no_grad():
        torch.testing.assert_close(decoder(gaussian)(found.code), found.images)
    torch.testing.assert_close(found.images.mean(dim=(1, 2, 3)), found.metric)


def test_energies_as_the_metric_are_not_computed_again(gaussian: GaussianModel) -> None:
    seen: list[Tensor] = []

    def height(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return images.mean(dim=(1, 2, 3))

    code, options = normal(*SHAPE), {"num_langevin_steps": 4, "step_size": 0.5}
    energies = [(2.0, height), (-0.5, height)]
    made = {
        metric: langevin(
            code, decoder(gaussian), energies, metric=metric, generator=torch.Generator().manual_seed(0), **options
        )
        for metric in ("energies", WeightedSum(tuple(energies)))
    }
    assert len(seen) == 10 + 20  # two before every step and at the end, and as many for a metric of its own
    once, again = made.values()
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.metric, again.metric)


def test_evaluations_are_as_told(toy_model: Any) -> None:
    code = normal(4, 2, 4, 16, 16).float()
    before = toy_model.evaluations
    run(toy_model, code, torch.zeros(1, 4, 16, 16), steps=2)
    assert toy_model.evaluations - before == (2 + 1) * 3 * 2  # decodings, sampler steps, images


def test_it_decodes_to_pixels_for_energies_of_pictures(toy_model: Any) -> None:
    network = torch.nn.Conv2d(3, 5, 8, stride=8).requires_grad_(False)
    energy = ClassLabel(lambda pixels: network(pixels).mean(dim=(2, 3)), 2)
    decode = decoder(toy_model, pixels=True, num_inference_steps=2)
    found = langevin(normal(3, 1, 4, 16, 16).float(), decode, [(5.0, energy)], num_langevin_steps=1)
    assert found.images.shape == (1, 3, 128, 128)
    assert float(found.energies[0, 1, 0]) > 0.0


@pytest.mark.parametrize(
    "wrong",
    [lambda images: images.sum(), lambda images: images.mean(dim=(2, 3)), lambda images: 0.0],
    ids=["scalar", "matrix", "number"],
)
def test_an_energy_of_the_wrong_shape_is_refused(wrong: Any, gaussian: GaussianModel) -> None:
    for call in (
        lambda: langevin(normal(*SHAPE), decoder(gaussian), [(1.0, wrong)]),
        lambda: langevin(normal(*SHAPE), decoder(gaussian), (), metric=wrong),
    ):
        with pytest.raises(UsageError, match=r"must give one number an image, \(2,\)"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be above 0, got 0"),
        ({"num_langevin_steps": -1}, "num_langevin_steps must be at least 0, got -1"),
        ({"prior_weight": -1.0}, "prior_weight must be at least 0, got -1"),
        ({"noise": torch.zeros(3)}, "noise must be"),
        ({"code": torch.zeros(4, 1, 4, 4)}, "code must be"),
        ({"code": torch.zeros(7, 2, 1, 4, 4)}, "a code for 3 steps has 4 entries"),
        ({"energies": [(float("nan"), Quadratic(torch.zeros(1)))]}, "must be finite"),
        ({"energies": [(1.0, Quadratic(torch.zeros(1, 1, 8, 8)))]}, "encode or resize the target"),
        ({"energies": [(1.0, lambda images: images.detach().sum(dim=(1, 2, 3)))]}, "do not depend on the code"),
        ({"energies": [(1.0, lambda images: images.sum(dim=(1, 2, 3)) / 0)]}, "NaN or infinity"),
        ({"energies": [(1.0, ClassLabel(lambda images: images.flatten(1), 99))]}, "hold class 99"),
    ],
)
def test_mistakes_are_named(options: Any, message: str, gaussian: GaussianModel) -> None:
    given = {"code": normal(*SHAPE), "energies": [(1.0, Quadratic(torch.zeros(1, 1, 4, 4)))]} | options
    with pytest.raises(UsageError, match=message):
        langevin(given.pop("code"), decoder(gaussian), given.pop("energies"), **given)
    with pytest.raises(UsageError, match=r"eta must be in \(0, 1\], got 0"):
        decoder(gaussian, eta=0.0)


def test_text_agreement_is_one_minus_cosine() -> None:
    images, matrix = normal(2, 3, 8, 8), normal(192, 6, seed=1)

    def encode(pixels: Tensor) -> Tensor:
        return pixels.flatten(1) @ matrix

    own = TextAgreement(encode, encode(images)[:1])
    assert float(own(images)[0]) == pytest.approx(0.0, abs=1e-9)
    assert float(own(images)[1]) == pytest.approx(1 - float(F.cosine_similarity(*encode(images), dim=0)))
    generator = torch.Generator().manual_seed(0)
    seen = TextAgreement(encode, encode(images)[:1], views=6, generator=generator)(images)
    views = random_views(images.repeat_interleave(6, dim=0), torch.Generator().manual_seed(0), views=6)
    expected = 1 - F.cosine_similarity(encode(views), encode(images)[:1], dim=-1).view(2, 6).mean(dim=1)
    torch.testing.assert_close(seen, expected)
    with pytest.raises(UsageError, match="do not fit"):
        TextAgreement(encode, torch.zeros(1, 7))(images)


def test_random_views_keep_size_and_move_the_picture() -> None:
    flat, images = torch.full((3, 3, 8, 8), 0.3), normal(3, 3, 8, 8)
    torch.testing.assert_close(random_views(flat), flat)
    first, second = (random_views(images, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, images)


def test_low_pass_keeps_what_is_coarse() -> None:
    noise = normal(1, 2, 12, 16)
    assert low_pass(noise, 12) is noise
    torch.testing.assert_close(low_pass(torch.ones(1, 2, 12, 16), 3), torch.ones(1, 2, 12, 16))
    assert float(low_pass(noise, 3).std()) < 0.5 * float(noise.std())
    wave = torch.sin(torch.linspace(0, 6.28, 16, dtype=torch.float64)).expand(1, 1, 16, 16)
    assert float((low_pass(wave, 8) - wave).norm() / wave.norm()) < 0.1
    torch.testing.assert_close(low_pass(2 * noise - 1, 4), 2 * low_pass(noise, 4) - 1)


def test_quadratic_is_half_the_squared_distance() -> None:
    images = normal(3, 1, 4, 4)
    torch.testing.assert_close(
        evaluated(Quadratic(torch.zeros(1, 1, 4, 4)), images), 0.5 * images.square().sum((1, 2, 3))
    )
    assert sqrt(2 * float(Quadratic(images)(images + 1)[0])) == pytest.approx(4.0)
