"""Schedules and steps against diffusers' schedulers, in float64."""

from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler

from sfumato.errors import ModelError, UsageError
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import Level, Prediction, add_noise
from sfumato.sampling.ddim import ddim_step
from sfumato.sampling.ddpm import ddpm_step

CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def double(scheduler: Any, schedule: DiscreteVP) -> Any:
    """diffusers builds its table in float32: give it ours, so that the steps are compared and not the rounding."""
    scheduler.alphas_cumprod = schedule.alphas_cumprod
    return scheduler


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_levels_equal_diffusers(kind: str, zero_snr: bool) -> None:
    config = CONFIG | {"beta_schedule": kind, "rescale_betas_zero_snr": zero_snr}
    theirs = DDIMScheduler(**config).alphas_cumprod.double()
    ours = DiscreteVP.from_config(config).alphas_cumprod
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-7)  # theirs is a float32 product of 1000 factors
    assert (ours[-1] == 0) == zero_snr


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 20, 50, 999])
def test_timesteps_equal_diffusers(spacing: str, steps: int) -> None:
    config = CONFIG | {"timestep_spacing": spacing}
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    assert DiscreteVP.from_config(config).timesteps(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("prediction", "zero_snr"),  # noise prediction at level 0 is refused, see below
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True), ("sample", False), ("sample", True)],
)
def test_ddim_equals_diffusers_step_by_step(spacing: str, prediction: str, eta: float, zero_snr: bool) -> None:
    config = CONFIG | {
        "timestep_spacing": spacing,
        "prediction_type": prediction,
        "rescale_betas_zero_snr": zero_snr,
    }
    schedule = DiscreteVP.from_config(config)
    scheduler = double(DDIMScheduler(**config), schedule)
    scheduler.final_alpha_cumprod = schedule.alphas_cumprod[0]
    scheduler.set_timesteps(12)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator)
    for step in schedule.steps(12, neighbour="stride"):
        output, noise = (torch.randn(latents.shape, dtype=torch.float64, generator=generator) for _ in range(2))
        theirs = scheduler.step(output, step.time, latents, eta=eta, variance_noise=noise if eta else None).prev_sample
        prediction = schedule.split(output, latents, step.level)
        ours = ddim_step(prediction, step.level, step.level_prev, eta=eta, noise=noise)
        assert relative(ours, theirs) < 1e-10, step
        latents = theirs


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_inversion_equals_diffusers_step_by_step(spacing: str, prediction: str) -> None:
    """The DDIM step with its levels exchanged is the inverse scheduler's step."""
    config = CONFIG | {"timestep_spacing": spacing, "prediction_type": prediction}
    schedule = DiscreteVP.from_config(config)
    scheduler = double(DDIMInverseScheduler(**config), schedule)
    scheduler.initial_alpha_cumprod = schedule.alphas_cumprod[0]
    scheduler.set_timesteps(10)
    steps = schedule.steps(10)[::-1]
    assert scheduler.timesteps.tolist() == [step.time for step in steps]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 3, 5, dtype=torch.float64, generator=generator)
    for step in steps:
        output = torch.randn(latents.shape, dtype=torch.float64, generator=generator)
        theirs = scheduler.step(output, step.time, latents).prev_sample
        prediction = schedule.split(output, latents, step.level_prev)
        ours = ddim_step(prediction, step.level_prev, step.level)
        assert relative(ours, theirs) < 1e-10, step
        latents = theirs


@pytest.mark.parametrize(("variance", "theirs_is"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
def test_ddpm_equals_diffusers_step_by_step(variance: Any, theirs_is: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
    schedule = DiscreteVP.from_config(config)
    scheduler = double(DDPMScheduler(**config, variance_type=theirs_is), schedule)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=generator)
    for step in schedule.steps(20):
        output, noise = (torch.randn(latents.shape, dtype=torch.float64, generator=generator) for _ in range(2))
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, draw=noise, **__: draw)
        theirs = scheduler.step(output, step.time, latents).prev_sample
        # diffusers adds nothing at t = 0, and bounds the variance below by 1e-20
        prediction = schedule.split(output, latents, step.level)
        ours = ddpm_step(latents, prediction, step.level, step.level_prev, noise=noise, variance=variance)
        assert relative(ours, theirs) < 1e-10, step
        latents = theirs


def test_ddpm_is_ddim_at_eta_one() -> None:
    schedule = DiscreteVP.from_config(CONFIG)
    latents, output, noise = torch.randn(3, 2, 4, 4, 4, dtype=torch.float64).unbind()
    for step in schedule.steps(10):
        levels, prediction = (step.level, step.level_prev), schedule.split(output, latents, step.level)
        ddim, ddpm = (
            ddim_step(prediction, *levels, eta=1.0, noise=noise),
            ddpm_step(latents, prediction, *levels, noise=noise),
        )
        assert relative(ddim, ddpm) < 1e-12


def test_t_prev_is_the_next_entry_of_the_list() -> None:
    schedule = DiscreteVP.from_config(CONFIG | {"timestep_spacing": "linspace"})
    steps = schedule.steps(8)
    assert [step.time_prev for step in steps[:-1]] == [step.time for step in steps[1:]]
    assert steps[-1].time_prev < 0
    assert steps[-1].level_prev == schedule.level(-1)
    assert [step.index for step in steps] == list(range(8))


def test_prediction_targets_convert_into_one_another() -> None:
    level, x0, noise = Level.variance_preserving(0.3), torch.randn(2, 3), torch.randn(2, 3)
    latents = add_noise(x0, noise, level)
    targets = {"epsilon": noise, "sample": x0, "v_prediction": level.signal * noise - level.noise * x0}
    for kind, target in targets.items():
        prediction = DiscreteVP.from_config(CONFIG | {"prediction_type": kind}).split(target, latents, level)
        torch.testing.assert_close(prediction.eps, noise)
        torch.testing.assert_close(prediction.x0, x0)


def test_clipping_bounds_the_clean_latents() -> None:
    schedule = DiscreteVP.from_config(CONFIG | {"clip_sample": True, "clip_sample_range": 0.5})
    level = Level.variance_preserving(0.25)
    prediction = schedule.split(torch.zeros(1, 3), torch.tensor([[-9.0, 0.1, 9.0]]), level)
    torch.testing.assert_close(prediction.x0, torch.tensor([[-0.5, 0.2, 0.5]]))


def test_noise_prediction_is_refused_at_level_0() -> None:
    schedule = DiscreteVP.from_config(CONFIG | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    with pytest.raises(ModelError, match="level 0"):
        schedule.split(torch.zeros(1), torch.zeros(1), schedule.steps(5)[0].level)


@pytest.mark.parametrize(
    ("config", "named"),
    [({"prediction_type": "flow"}, "flow"), ({"timestep_spacing": "odd"}, "odd"), ({"beta_schedule": "odd"}, "odd")],
)
def test_unknown_configs_are_refused_by_name(config: dict[str, str], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        DiscreteVP.from_config(CONFIG | config)


@pytest.mark.parametrize("steps", [0, -1, 1001, 1000])
def test_step_counts_outside_the_schedule_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=str(steps)):  # 1000 with steps_offset 1 would ask for timestep 1000
        DiscreteVP.from_config(CONFIG).timesteps(steps)


@pytest.mark.parametrize("timesteps", [[1, 500], [500, 500], [1000], [3, -1], []])
def test_bad_timestep_lists_are_refused(timesteps: list[int]) -> None:
    with pytest.raises(UsageError, match="fall strictly"):
        DiscreteVP.from_config(CONFIG).steps(timesteps=timesteps)


def test_eta_outside_its_range_is_named() -> None:
    nothing, levels = Prediction(torch.zeros(1), torch.zeros(1)), [Level.variance_preserving(a) for a in (0.5, 0.6)]
    with pytest.raises(UsageError, match=r"eta must be in \[0, 1\], got 1.5"):
        ddim_step(nothing, *levels, eta=1.5)
    with pytest.raises(UsageError, match="pass noise"):
        ddim_step(nothing, *levels, eta=0.5)
