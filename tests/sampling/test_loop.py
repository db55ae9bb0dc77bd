"""The sampling loop on Gaussian data: order of convergence, branches, replay, watching, breaking down."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import Cancelled, SamplingError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.ddpm import DDPM
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.watch import Progress, Watch
from tests.gaussian import GaussianModel, cosine_schedule

COUNTS = (64, 128, 256, 512, 1024)


def order_of(errors: list[float]) -> float:
    """Slope of log error over log step size, for the first of COUNTS."""
    sizes = torch.tensor([1.0 / n for n in COUNTS[: len(errors)]], dtype=torch.float64).log()
    logs = torch.tensor(errors, dtype=torch.float64).log()
    sizes, logs = sizes - sizes.mean(), logs - logs.mean()
    return float((sizes * logs).sum() / (sizes * sizes).sum())


def drawn(images: int = 2) -> Tensor:
    return torch.randn(images, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_converges_at_order_one(prediction: Any) -> None:
    model = GaussianModel(cosine_schedule(prediction_type=prediction))
    branch = {"sample": Branch(model.encode_prompt("x"))}
    errors = []
    for count in COUNTS:
        steps = model.schedule.steps(count)
        exact = model.flow(drawn(), steps[0].level, model.schedule.final_alpha_bar)
        result = sample(model, drawn(), branch, num_inference_steps=count)[0]
        errors.append(float((result - exact).abs().max()))
    assert order_of(errors) == pytest.approx(1.0, abs=0.1), errors


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("conditioned_on", ["next", "current"])
def test_ddim_inversion_converges_at_order_one(conditioned_on: Any, prediction: Any) -> None:
    schedule = cosine_schedule(prediction_type=prediction, final_alpha_bar=float(cosine_schedule().alphas_cumprod[0]))
    model = GaussianModel(schedule)
    errors = []
    for count in COUNTS:
        clean = model.mean + model.std * drawn()
        inversion = ddim_inversion(
            InversionTask(model, clean, model.encode_prompt("x"), num_inference_steps=count),
            conditioned_on=conditioned_on,
        )
        exact = model.flow(clean, schedule.final_alpha_bar, schedule.steps(count)[0].level)
        errors.append(float((inversion.noise - exact).abs().max()))
    assert order_of(errors) == pytest.approx(1.0, abs=0.15), errors


def test_inverting_then_sampling_comes_back() -> None:
    model = GaussianModel(cosine_schedule())
    clean = model.mean + model.std * drawn()
    inversion = ddim_inversion(InversionTask(model, clean, model.encode_prompt("x"), num_inference_steps=512))
    back = sample(model, inversion.noise, {"source": Branch(model.encode_prompt("x"))}, timesteps=inversion.timesteps)
    assert float((back[0] - clean).abs().max()) < 0.02
    assert inversion.trajectory is not None
    assert torch.equal(inversion.clean, clean)
    assert torch.equal(inversion.latents_at(0), inversion.noise)


def test_ancestral_sampling_draws_the_data_distribution() -> None:
    model = GaussianModel(cosine_schedule())
    noise = torch.randn(400, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for options in ({"eta": 1.0}, {"stepper": DDPM()}):
        drawn_images = sample(
            model,
            noise,
            {"sample": Branch(model.encode_prompt("x"))},
            num_inference_steps=200,
            generator=torch.Generator().manual_seed(2),
            **options,  # type: ignore[arg-type]
        )
        assert float(drawn_images.mean()) == pytest.approx(model.mean, abs=0.02)
        assert float(drawn_images.std()) == pytest.approx(model.std, rel=0.05)


def test_generator_is_the_only_randomness() -> None:
    model = GaussianModel(cosine_schedule())
    branch = {"sample": Branch(model.encode_prompt("x"))}

    def run(seed: int) -> Tensor:
        torch.manual_seed(torch.seed())  # whatever the global generator holds must not matter
        generator = torch.Generator().manual_seed(seed)
        return sample(model, drawn(), branch, num_inference_steps=8, eta=0.7, generator=generator)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_a_batch_equals_single_runs_and_branches_share_draws() -> None:
    model = GaussianModel(cosine_schedule())
    branches = {"source": Branch(model.encode_prompt("x")), "target": Branch(model.encode_prompt("y"))}
    maps = torch.randn(6, 2, 1, 4, 4, dtype=torch.float64)
    timesteps = tuple(model.schedule.timesteps(6))
    replay = Inversion("given", drawn(), timesteps, noise_maps=maps)
    both = sample(model, drawn(), branches, num_inference_steps=6, eta=0.5, replay=replay)
    for image in range(2):
        alone = replace(replay, noise_maps=maps[:, image : image + 1])
        one = sample(model, drawn()[image : image + 1], branches, num_inference_steps=6, eta=0.5, replay=alone)
        torch.testing.assert_close(both[:, image], one[:, 0])
    assert torch.equal(both[0], both[1])  # equal conditions, equal noise


def test_steps_are_told_and_hooks_chain() -> None:
    model = GaussianModel(cosine_schedule())
    seen: list[int] = []

    def double(latents: Tensor, step: Any) -> Tensor:
        seen.append(step.index)
        return latents * 2

    def halve(latents: Tensor, step: Any) -> Tensor:
        return latents / 2

    branch = {"sample": Branch(model.encode_prompt("x"))}
    plain = sample(model, drawn(), branch, num_inference_steps=10, start_index=4)
    hooked = sample(model, drawn(), branch, num_inference_steps=10, start_index=4, on_step=[double, halve])
    assert torch.equal(plain, hooked)
    assert seen == [4, 5, 6, 7, 8, 9]
    assert model.calls[:6] == [step.time for step in model.schedule.steps(10)][4:]


def test_evaluations_are_counted() -> None:
    model = GaussianModel(cosine_schedule())
    condition = model.encode_prompt("x")
    sample(model, drawn(3), {"a": Branch(condition), "b": Branch(condition)}, num_inference_steps=5)
    assert model.evaluations == 5 * 2 * 3
    sample(model, drawn(3), {"a": Branch(condition, guidance_scale=2.0)}, num_inference_steps=5)
    assert model.evaluations == 5 * 2 * 3 + 5 * 2 * 3


def test_progress_previews_and_cancelling() -> None:
    model = GaussianModel(cosine_schedule())
    branch = {"sample": Branch(model.encode_prompt("x"))}
    reports: list[Progress] = []
    previews: list[tuple[int, tuple[int, ...]]] = []
    watch = Watch(
        progress=reports.append,
        preview=lambda index, x0: previews.append((index, tuple(x0.shape))),
        preview_every=4,
    )
    sample(model, drawn(), branch, num_inference_steps=9, watch=watch.during("drawing"))
    assert [report.done for report in reports] == list(range(10))
    assert {(report.stage, report.total) for report in reports} == {("drawing", 9)}
    assert previews == [(0, (1, 2, 1, 4, 4)), (4, (1, 2, 1, 4, 4)), (8, (1, 2, 1, 4, 4))]

    before = model.evaluations
    with pytest.raises(Cancelled, match="after 3 of 9"):
        sample(
            model,
            drawn(),
            branch,
            num_inference_steps=9,
            watch=Watch(cancelled=lambda: model.evaluations >= before + 3 * 2),
        )


def test_nan_stops_with_step_and_cause() -> None:
    model = GaussianModel(cosine_schedule())
    branch = {"sample": Branch(model.encode_prompt("x"))}

    def spoil(latents: Tensor, step: Any) -> Tensor:
        return latents * float("nan") if step.index == 2 else latents

    with pytest.raises(SamplingError, match=r"step 3 of 5 .*guidance scale"):
        sample(model, drawn(), branch, num_inference_steps=5, on_step=[spoil])
    model.dtype = torch.float16
    with pytest.raises(SamplingError, match="half precision"):
        sample(model, drawn(), branch, num_inference_steps=5, on_step=[spoil])


def test_gradients_flow_only_when_asked() -> None:
    model = GaussianModel(cosine_schedule())
    branch = {"sample": Branch(model.encode_prompt("x"))}
    noise = drawn().requires_grad_()
    assert not sample(model, noise, branch, num_inference_steps=3).requires_grad
    result = sample(model, noise, branch, num_inference_steps=3, differentiable=True)
    (gradient,) = torch.autograd.grad(result.sum(), noise)
    # the run is affine in its noise here, so a finite difference is exact
    difference = sample(model, drawn() + 1.0, branch, num_inference_steps=3) - result
    torch.testing.assert_close(gradient, difference[0].detach())


@pytest.mark.parametrize("shape", [(4, 4), (3, 2, 1, 4, 4)])
def test_noise_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    model = GaussianModel(cosine_schedule())
    with pytest.raises(UsageError, match="noise must be"):
        sample(model, torch.zeros(shape), {"a": Branch(model.encode_prompt("x"))}, num_inference_steps=3)


def test_start_index_outside_the_grid_is_refused() -> None:
    model = GaussianModel(cosine_schedule())
    with pytest.raises(UsageError, match="start_index"):
        sample(model, drawn(), {"a": Branch(model.encode_prompt("x"))}, num_inference_steps=3, start_index=3)
