"""The rectified flow's schedule: its levels, and that sampling and inversion follow the exact flow at order 1."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.inversions.bdia import bdia_inversion
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.fireflow import fireflow_inversion
from sfumato.inversions.fixed_point import fixed_point_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.rf_solver import rf_solver_inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.uni_inv import uni_inv
from sfumato.models.rectified_flow import DynamicShift, RectifiedFlow
from sfumato.models.schedules import Level
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.solvers import midpoint
from tests.gaussian import GaussianModel, cosine_schedule
from tests.sampling.test_loop import COUNTS, order_of

SCHEDULES = [RectifiedFlow(), RectifiedFlow(shift=3.0, grid="table"), RectifiedFlow(dynamic=DynamicShift())]


def drawn() -> Tensor:
    return torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_levels_sum_to_one_and_the_last_step_ends_clean() -> None:
    steps = RectifiedFlow(shift=3.0).steps(4)
    assert [step.level.noise for step in steps] == pytest.approx([1.0, 0.9, 0.75, 0.5])  # 3 s / (1 + 2 s)
    assert [step.time for step in steps] == pytest.approx([1000.0, 900.0, 750.0, 500.0])
    assert all(step.level.signal + step.level.noise == 1.0 for step in steps)
    assert [step.level_prev for step in steps[:-1]] == [step.level for step in steps[1:]]
    assert steps[-1].level_prev == Level(1.0, 0.0)
    assert steps[-1].time_prev < 0


def test_a_grid_of_times_is_the_grid_again() -> None:
    for schedule in SCHEDULES:
        steps = schedule.steps(7, latent_size=(16, 24))
        assert schedule.steps(timesteps=[step.time for step in steps]) == steps


def test_larger_images_are_shifted_further() -> None:
    shift = DynamicShift()
    assert shift.mu((32, 32)) == pytest.approx(0.5)
    assert shift.mu((128, 128)) == pytest.approx(1.15)
    small, large = (RectifiedFlow(dynamic=shift).timesteps(4, latent_size=(side, side)) for side in (32, 128))
    assert all(a <= b for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sampling_follows_the_exact_flow_at_order_one(schedule: RectifiedFlow) -> None:
    model, errors = GaussianModel(schedule), []
    exact = model.flow(drawn(), Level(0.0, 1.0), Level(1.0, 0.0))
    for count in COUNTS[:4]:  # a flow has 1000 times
        result = sample(model, drawn(), {"sample": Branch(model.encode_prompt("x"))}, num_inference_steps=count)
        errors.append(float((result[0] - exact).abs().max()))
    assert order_of(errors) == pytest.approx(1.0, abs=0.1), errors


def inverting(model: GaussianModel, clean: Tensor, steps: int) -> InversionTask:
    return InversionTask(model, clean, model.encode_prompt("x"), num_inference_steps=steps)


def replayed(model: GaussianModel, found: Inversion) -> Tensor:
    branch = {"source": Branch(model.encode_prompt("x"))}
    return sample(model, found.noise, branch, timesteps=found.timesteps, replay=found, eta=found.eta)[0]


@pytest.mark.parametrize("conditioned_on", ["next", "current"])
@pytest.mark.parametrize("schedule", SCHEDULES[:2])
def test_inversion_follows_the_exact_flow_at_order_one(schedule: RectifiedFlow, conditioned_on: Any) -> None:
    model, errors = GaussianModel(schedule), []
    clean = model.mean + model.std * drawn()
    exact = model.flow(clean, Level(1.0, 0.0), Level(0.0, 1.0))
    for count in COUNTS[:4]:
        found = ddim_inversion(inverting(model, clean, count), conditioned_on=conditioned_on)
        errors.append(float((found.noise - exact).abs().max()))
    assert order_of(errors) == pytest.approx(1.0, abs=0.15), errors


@pytest.mark.parametrize(("invert", "order"), [(rf_solver_inversion, 2.0), (fireflow_inversion, 2.0), (uni_inv, 1.0)])
@pytest.mark.parametrize("schedule", SCHEDULES[:2])
def test_solvers_follow_the_exact_flow_at_their_order(schedule: RectifiedFlow, invert: Any, order: float) -> None:
    """Or better: on Gaussian data the leading error of the midpoint rule cancels, see `test_solvers`."""
    model, errors = GaussianModel(schedule), []
    clean = model.mean + model.std * drawn()
    for count in COUNTS[:4]:
        found, half = invert(inverting(model, clean, count)), count // 2
        exact = model.flow(clean, Level(1.0, 0.0), schedule.level(found.timesteps[half]))
        errors.append(float((found.latents_at(half) - exact).abs().max()))
    assert order_of(errors) > order - 0.2, errors


@pytest.mark.parametrize("schedule", SCHEDULES[:2])
@pytest.mark.parametrize("invert", [rf_solver_inversion, fireflow_inversion])
def test_a_replay_takes_the_solver_of_its_inversion(schedule: RectifiedFlow, invert: Any) -> None:
    model, clean = GaussianModel(schedule), 0.7 + 0.4 * drawn()
    found = invert(inverting(model, clean, 32))
    euler = replace(found, method="ddim")
    errors = [float((replayed(model, way) - clean).abs().max()) for way in (found, euler)]
    assert errors[0] < 0.05 * errors[1]


def test_a_solver_needs_a_flow() -> None:
    model = GaussianModel(cosine_schedule())
    with pytest.raises(ModelError, match="is no rectified flow"):
        rf_solver_inversion(inverting(model, drawn(), 4))
    with pytest.raises(UsageError, match="solvers look between the levels of a rectified flow"):
        sample(model, drawn(), {"sample": Branch(model.encode_prompt("x"))}, num_inference_steps=4, solver=midpoint)


@pytest.mark.parametrize(
    ("invert", "options", "within"),
    [
        (fixed_point_inversion, {"iterations": 30, "tolerance": 1e-10}, 1e-8),
        (bdia_inversion, {}, 1e-11),
    ],
)
def test_exact_inversions_serve_flows(invert: Any, options: Any, within: float) -> None:
    """The recipes are written in levels: of a flow, too, the latents come back as closely as each method says."""
    model = GaussianModel(RectifiedFlow(shift=3.0))
    clean = model.mean + model.std * drawn()
    found = invert(inverting(model, clean, 12), **options)
    assert float((replayed(model, found) - clean).abs().max()) < within


@pytest.mark.parametrize("timesteps", [[], [500, 500], [1001.0], [500.0, 0.0], [100.0, 200.0]])
def test_times_that_do_not_fall_are_refused(timesteps: list[float]) -> None:
    with pytest.raises(UsageError, match="fall strictly"):
        RectifiedFlow().steps(timesteps=timesteps)


def test_what_a_run_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="give latent_size"):
        RectifiedFlow(dynamic=DynamicShift()).steps(4)
    with pytest.raises(UsageError, match=r"in \[1, 1000\], got 0"):
        RectifiedFlow().timesteps(0)
    with pytest.raises(UsageError, match="neighbour must be 'grid'"):
        RectifiedFlow().steps(4, neighbour="stride")
    with pytest.raises(UsageError, match="give num_inference_steps or timesteps"):
        RectifiedFlow().steps()
