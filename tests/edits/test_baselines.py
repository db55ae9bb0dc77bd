"""SDEdit, DDIB, ILVR and EGSDE: identities, closed forms, costs, mistakes named before any work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.ddib import ddib
from sfumato.edits.egsde import egsde, output_shift
from sfumato.edits.ilvr import ilvr
from sfumato.edits.result import LatentEdit
from sfumato.edits.sdedit import sdedit
from sfumato.errors import InversionError, UsageError
from sfumato.guidance.energies import FeatureSimilarity, LowPassDistance, NoisyClassLabel, low_pass
from sfumato.inversions.bdia import bdia_inversion
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import Level
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by
from tests.gaussian import GaussianModel, cosine_schedule

SOURCE, TARGET, OTHER = "a photo of a cat", "a photo of a dog", "a red house"
FROM_PICTURE: list[Callable[..., LatentEdit]] = [sdedit, ilvr, egsde]
STEPS = 4


@pytest.fixture(params=["toy_model", "toy_velocity_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(model: Any, images: int = 1, steps: int = STEPS) -> Inversion:
    clean = 0.5 * normal(images, 4, 16, 16, seed=1)
    timesteps = tuple(model.schedule.timesteps(steps))
    return Inversion("picture", normal(images, 4, 16, 16, seed=2), timesteps, trajectory=clean[None])


def run(method: Callable[..., LatentEdit], model: Any, *targets: str, **options: Any) -> LatentEdit:
    source = options.pop("source", None) or picture(model)
    given: dict[str, Any] = {"guidance_scale": 3.0, "generator": torch.Generator().manual_seed(3)}
    return edit_by(method, model, source, source_prompt=SOURCE, target_prompts=targets or (TARGET,), **given | options)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def draws_of(method: Callable[..., LatentEdit], run_steps: int, images: int) -> dict[str, Tensor]:
    """All draws as tensors."""
    if method is ilvr:
        return {"noise": normal(2, STEPS, images, 4, 16, 16, seed=5)}
    draws = {"noise": normal(run_steps + 1, images, 4, 16, 16, seed=5)}
    return draws | ({"reference_noise": normal(run_steps, images, 4, 16, 16, seed=6)} if method is egsde else {})


@pytest.mark.parametrize("method", [sdedit, egsde])
def test_without_strength_the_picture_stays(method: Any, toy_model: Any) -> None:
    before = toy_model.evaluations
    result = run(method, toy_model, TARGET, OTHER, strength=0.0)
    assert result.branches == ("source", "target-1", "target-2")
    assert all(torch.equal(branch, picture(toy_model).clean) for branch in result.latents)
    assert toy_model.evaluations == before


@pytest.mark.parametrize("method", FROM_PICTURE)
def test_the_source_branch_is_the_picture_itself(method: Any, model: Any) -> None:
    result = run(method, model)
    assert torch.equal(result.latents[0], picture(model).clean)
    assert far(result.latents[1], result.latents[0]) > 1e-2


def test_more_strength_changes_more(toy_model: Any) -> None:
    changes = [far(*reversed(run(sdedit, toy_model, strength=strength).latents)) for strength in (0.25, 0.5, 1.0)]
    assert changes == sorted(changes)


def test_sdedit_is_sampling_from_the_noised_picture(model: Any) -> None:
    source = picture(model)
    step = model.schedule.steps(STEPS)[2]
    noised = step.level.signal * source.clean + step.level.noise * source.noise
    condition = model.encode_prompt([TARGET, ""])
    plain = sample(
        model, noised, {"t": Branch(condition[[0]], condition[[1]], 3.0)}, num_inference_steps=STEPS, start_index=2
    )
    assert far(run(sdedit, model, strength=0.5, eta=0.0).latents[1], plain[0]) < 1e-5


def test_repeats_go_on_from_the_result(toy_model: Any) -> None:
    draws = normal(6, 1, 4, 16, 16)
    twice = run(sdedit, toy_model, strength=0.5, noise=draws, repeats=2)
    once = run(sdedit, toy_model, strength=0.5, noise=draws[:3])
    source = Inversion("picture", normal(1), picture(toy_model).timesteps, trajectory=once.latents[1:])
    again = run(sdedit, toy_model, strength=0.5, noise=draws[3:], source=source)
    assert far(twice.latents[1], again.latents[1]) < 1e-5


def test_at_full_strength_sdedit_draws_from_the_model() -> None:
    """Gaussian data: whatever the image, the result has the model's mean and deviation."""
    model = GaussianModel(cosine_schedule(final_alpha_bar=1.0))
    timesteps = tuple(model.schedule.timesteps(60))
    clean = torch.full((1, 1, 64, 64), 3.0, dtype=torch.float64)
    for strength, mean in ((1.0, 0.7), (0.2, 2.0)):
        source = Inversion("picture", normal(1, 1, 64, 64).double(), timesteps, trajectory=clean[None])
        edited = run(sdedit, model, source=source, guidance_scale=1.0, strength=strength).latents[1]
        assert abs(float(edited.mean()) - mean) < 0.4 if strength < 1 else abs(float(edited.mean()) - mean) < 0.1
    # the last one is weak: drawn towards the data, not all the way
    assert 0.8 < float(edited.mean()) < 3.0


@pytest.mark.parametrize("method", FROM_PICTURE)
def test_a_batch_equals_single_pictures(method: Any, toy_model: Any) -> None:
    options: dict[str, Any] = {} if method is ilvr else {"strength": 0.5}
    whole, draws = picture(toy_model, images=2), draws_of(method, 2, 2)
    both = run(method, toy_model, source=whole, **options, **draws)
    for k in range(2):
        alone = Inversion("picture", whole.noise[[k]], whole.timesteps, trajectory=whole.clean[None, [k]])
        axis = 2 if method is ilvr else 1
        mine = {name: draw.narrow(axis, k, 1) for name, draw in draws.items()}
        assert far(both.latents[:, [k]], run(method, toy_model, source=alone, **options, **mine).latents) < 1e-5


@pytest.mark.parametrize("method", FROM_PICTURE)
def test_targets_in_one_batch_equal_single_runs(method: Any, toy_model: Any) -> None:
    both = run(method, toy_model, TARGET, OTHER)
    for k, target in enumerate((TARGET, OTHER)):
        assert far(both.latents[k + 1], run(method, toy_model, target).latents[1]) < 1e-5


@pytest.mark.parametrize("method", [*FROM_PICTURE, ddib])
def test_evaluations_are_as_told(method: Any, toy_model: Any) -> None:
    steps = STEPS if method is ilvr else 2
    options: dict[str, Any] = {} if method is ilvr else {"strength": 0.5}
    beside = 1 if method is ddib else 0  # the source's row, which is not guided
    for scale, rows in ((3.0, 2), (1.0, 1)):
        source = inverted(toy_model) if method is ddib else picture(toy_model)
        before = toy_model.evaluations
        run(method, toy_model, TARGET, OTHER, source=source, guidance_scale=scale, **options)
        assert toy_model.evaluations - before == (beside + 2 * rows) * steps


def inverted(model: Any, steps: int = STEPS) -> Inversion:
    return ddim_inversion(
        InversionTask(model, picture(model).clean, model.encode_prompt(SOURCE), num_inference_steps=steps)
    )


def test_ddib_with_equal_prompts_gives_the_source(model: Any) -> None:
    result = run(ddib, model, SOURCE, source=inverted(model), source_guidance_scale=3.0)
    assert far(result.latents[1], result.latents[0]) < 1e-5


def test_ddib_with_equal_prompts_leads_back(toy_model: Any) -> None:
    result = run(ddib, toy_model, SOURCE, source=inverted(toy_model, 40), guidance_scale=1.0, strength=0.4)
    assert far(result.latents[1], picture(toy_model).clean) < 0.05


def test_ddib_turns_back_earlier_at_less_strength(toy_model: Any) -> None:
    source = inverted(toy_model)
    changes = []
    for strength in (0.0, 0.5, 1.0):
        result = run(ddib, toy_model, source=source, strength=strength, source_guidance_scale=1.0)
        changes.append(far(result.latents[1], source.clean))
    assert changes[0] == 0.0
    assert changes[1] < changes[2]


def test_ilvr_off_is_plain_sampling(toy_model: Any) -> None:
    condition = toy_model.encode_prompt([TARGET, ""])
    branch = {"target": Branch(condition[[0]], condition[[1]], 3.0)}
    plain = sample(
        toy_model, picture(toy_model).noise, branch, num_inference_steps=STEPS, eta=1.0,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    assert far(run(ilvr, toy_model, hold=0.0).latents[1], plain[0]) < 1e-5


def test_ilvr_holds_the_coarse_part(toy_model: Any) -> None:
    clean = picture(toy_model).clean
    whole = run(ilvr, toy_model, cells=16, hold=1.0).latents[1]
    torch.testing.assert_close(whole, clean)  # no detail is left to the model
    coarse = [far(low_pass(run(ilvr, toy_model, cells=4, hold=h).latents[1], 4), low_pass(clean, 4)) for h in (0, 1)]
    assert coarse[1] < 0.2 * coarse[0]


def test_egsde_without_energy_is_sdedit(model: Any) -> None:
    plain = run(sdedit, model, strength=0.75)
    assert far(run(egsde, model, strength=0.75, faithfulness=0.0).latents, plain.latents) < 1e-5


def test_egsde_pulls_the_coarse_part_back(toy_model: Any) -> None:
    source = picture(toy_model, steps=10)
    distances = []
    for faithfulness in (0.0, 0.5, 2.0):
        edited = run(egsde, toy_model, source=source, strength=0.75, faithfulness=faithfulness, cells=4).latents[1]
        distances.append(far(low_pass(edited, 4), low_pass(source.clean, 4)))
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_energys_shift_is_of_the_noise_whatever_the_network_predicts(prediction: Any) -> None:
    schedule = DiscreteVP(torch.linspace(0.99, 0.01, 10, dtype=torch.float64), prediction)
    latents, output, shift = (normal(1, 4, 8, 8, seed=seed).double() for seed in range(3))
    level = Level.variance_preserving(0.3)
    before = schedule.split(output, latents, level).eps
    after = schedule.split(output + output_shift(schedule, shift, level), latents, level).eps
    torch.testing.assert_close(after - before, shift)


def test_experts_are_objects(toy_model: Any) -> None:
    network = torch.nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False)
    alike = FeatureSimilarity(lambda latents, step: network(latents) * step.level.signal)
    label = NoisyClassLabel(lambda latents, step: network(latents).mean(dim=(2, 3)), 3)
    plain = run(egsde, toy_model, strength=0.5)
    for expert in (alike, label, LowPassDistance(4)):
        assert far(run(egsde, toy_model, strength=0.5, experts=[(50.0, expert)]).latents, plain.latents) > 1e-4
    latents = normal(2, 4, 16, 16)
    step = toy_model.schedule.steps(STEPS)[1]
    torch.testing.assert_close(alike(latents, latents, step), torch.ones(2))
    assert torch.equal(LowPassDistance()(latents, latents, step), torch.zeros(2))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (sdedit, {"strength": 1.5}, r"strength must be in \[0, 1\], got 1.5"),
        (sdedit, {"repeats": 0}, "repeats must be at least 1, got 0"),
        (sdedit, {"noise": torch.zeros(1, 1, 4, 16, 16)}, r"noise must be \(3, 1, 4, 16, 16\)"),
        (ilvr, {"cells": 0}, "cells must be at least 1"),
        (ilvr, {"hold": 1.5}, r"hold in \[0, 1\]"),
        (ilvr, {"noise": torch.zeros(1)}, r"noise must be \(2, 4, 1, 4, 16, 16\)"),
        (egsde, {"strength": -0.5}, r"strength must be in \[0, 1\], got -0.5"),
        (egsde, {"reference_noise": torch.zeros(1)}, r"reference_noise must be \(3, 1, 4, 16, 16\)"),
        (ddib, {"strength": 2.0}, r"strength must be in \[0, 1\], got 2"),
    ],
)
def test_mistakes_are_named_before_any_work(method: Any, options: Any, message: str, toy_model: Any) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        run(method, toy_model, **({"strength": 0.5} | options if method is sdedit else options))
    assert toy_model.evaluations == before


@pytest.mark.parametrize("method", [*FROM_PICTURE, ddib])
def test_a_drawn_source_is_sampled_first(method: Any, toy_model: Any) -> None:
    drawn = Inversion("drawn", normal(1, 4, 16, 16), picture(toy_model).timesteps)
    options: dict[str, Any] = {} if method is ilvr else {"strength": 0.5}
    condition = toy_model.encode_prompt([SOURCE, ""])
    branch = {"source": Branch(condition[[0]], condition[[1]], 3.0)}
    alone = sample(toy_model, drawn.noise, branch, num_inference_steps=STEPS)
    result = run(method, toy_model, source=drawn, **options)
    assert far(result.latents[0], alone[0]) < 1e-5
    assert far(result.latents[1], alone[0]) > 1e-3


def test_ddib_replays_an_exact_inversion_as_a_whole(toy_model: Any) -> None:
    source = bdia_inversion(
        InversionTask(toy_model, picture(toy_model).clean, toy_model.encode_prompt(SOURCE), num_inference_steps=STEPS)
    )
    whole = run(ddib, toy_model, source=source, source_guidance_scale=1.0)
    assert far(whole.latents[0], picture(toy_model).clean) < 1e-4
    with pytest.raises(InversionError, match="run all steps"):
        run(ddib, toy_model, source=source, strength=0.5)


def test_an_expert_of_the_wrong_shape_is_refused(toy_model: Any) -> None:
    for wrong in (lambda y, x, step: y.sum(), lambda y, x, step: y, lambda y, x, step: 0.0):
        with pytest.raises(UsageError, match=r"must give one number an image, \(1,\)"):
            run(egsde, toy_model, experts=[(1.0, wrong)])
