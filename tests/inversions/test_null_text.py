"""Null-text inversion: it comes nearer, stops by the authors' rule, and tunes the embedding alone. Numbers:
conformance."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.inversions import null_text
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.null_text import null_text_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.ddim import ddim_step
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.inversions.test_deterministic import MODELS, SOURCE, clean
from tests.inverting import inverted

pytestmark = pytest.mark.filterwarnings("ignore:null-text inversion does not")


def invert(model: Any, latents: Tensor, **options: Any) -> Inversion:
    options = {"guidance_scale": 3.0, "num_inference_steps": 4, "inner_steps": 3} | options
    return inverted(null_text_inversion, model, latents, model.encode_prompt(SOURCE), **options)


def replay(model: Any, noise: Tensor, found: Inversion | None, scale: float = 3.0) -> Tensor:
    branch = {"source": Branch(model.encode_prompt(SOURCE), guidance_scale=scale)}
    return sample(model, noise, branch, num_inference_steps=4, replay=found)[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_source_comes_back_nearer_than_untuned(name: str, request: Any) -> None:
    """The weights are random, so near is not to be had; on the embedded model it is, see docs/inversions.md."""
    model = request.getfixturevalue(name)
    found = invert(model, clean(), inner_steps=8, learning_rate=0.05)
    tuned = replay(model, found.noise, found) - clean()
    untuned = replay(model, found.noise, None) - clean()
    assert float(tuned.norm()) < 0.95 * float(untuned.norm())
    assert found.residuals is not None
    assert bool((found.residuals[:, 0, -1] < found.residuals[:, 0, 0]).all())  # every step's loss falls


def test_the_pivot_is_plain_ddim_inversion(toy_model: Any) -> None:
    found = invert(toy_model, clean())
    plain = ddim_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    assert found.trajectory is not None
    assert plain.trajectory is not None
    assert torch.equal(found.trajectory, plain.trajectory)


def test_each_step_tunes_on_from_the_one_before(toy_model: Any) -> None:
    """Adam's first update has the size of its rate in every entry, in the direction of the gradient's sign."""
    found = invert(toy_model, clean(), inner_steps=1)
    assert found.null_embeds is not None
    empty = toy_model.encode_prompt("").text
    for index, (before, after) in enumerate(pairwise([empty, *found.null_embeds])):
        largest, rate = float((after - before).abs().max()), 1e-2 * (1 - index / 100)
        assert 0.9 * rate < largest < 1.001 * rate  # less where gradients come near Adam's epsilon


@pytest.mark.parametrize(("steps", "falls_by"), [(50, 100), (100, 100), (125, 125)])
def test_rates_and_stop_thresholds_are_the_authors(
    toy_model: Any, monkeypatch: pytest.MonkeyPatch, steps: int, falls_by: int
) -> None:
    asked: list[tuple[float, float]] = []

    def minimise(self: Any, start: Tensor, inner_steps: int, rate: float, enough: float) -> tuple[Tensor, list[float]]:
        asked.append((rate, enough))
        return start, [1.0]

    monkeypatch.setattr(null_text._Tuning, "__init__", lambda self, *args: None)
    monkeypatch.setattr(null_text._Tuning, "minimise", minimise)
    monkeypatch.setattr(null_text._Tuning, "step", lambda self, embeds: torch.zeros(1, 4, 16, 16))
    monkeypatch.setattr(null_text, "ddim_inversion", walked)
    invert(toy_model, clean(), num_inference_steps=steps, early_stop=1e-4)
    rates, thresholds = zip(*asked, strict=True)
    assert rates == pytest.approx([1e-2 * (1 - i / falls_by) for i in range(steps)])
    assert thresholds == pytest.approx([1e-4 + 2e-5 * i for i in range(steps)])
    assert rates[-1] > 0.0


def walked(task: InversionTask) -> Inversion:
    """A pivot without a network call."""
    return task.inversion("ddim", task.clean, trajectory=task.clean.expand(len(task.steps) + 1, *task.clean.shape))


def test_a_step_that_is_good_enough_is_updated_once(toy_model: Any) -> None:
    found = invert(toy_model, clean(), early_stop=1e6)
    assert found.residuals is not None
    assert found.null_embeds is not None
    assert found.residuals.isfinite().sum(dim=-1).flatten().tolist() == [1, 1, 1, 1]
    assert not torch.equal(found.null_embeds[0], toy_model.encode_prompt("").text)


def test_the_stop_looks_at_the_loss_before_the_update(toy_model: Any) -> None:
    losses = invert(toy_model, clean(), early_stop=0.0).residuals
    assert losses is not None
    between = float(losses[0, 0, 0] + losses[0, 0, 1]) / 2  # the first loss is above, the second below
    stopped = invert(toy_model, clean(), early_stop=between).residuals
    assert stopped is not None
    assert stopped[0, 0].isfinite().tolist() == [True, True, False]
    assert torch.equal(stopped[0, 0, :2], losses[0, 0, :2])


def test_updates_of_a_step_are_adams(toy_model: Any) -> None:
    """Written out: both moments are carried from update to update, and corrected for where they start."""
    found = invert(toy_model, clean(), inner_steps=3, early_stop=0.0)
    assert found.null_embeds is not None
    assert found.trajectory is not None
    condition, first = toy_model.encode_prompt([SOURCE, ""]), toy_model.schedule.steps(4)[0]
    noise, target = found.noise, found.latents_at(1)
    embeds = condition.text[[1]].clone()
    mean, square = torch.zeros_like(embeds), torch.zeros_like(embeds)
    for count in (1, 2, 3):
        embeds.requires_grad_()
        empty = condition[[1]].with_text(embeds)
        uncond, cond = (toy_model.predict(noise, first.time, one) for one in (empty, condition[[0]]))
        prediction = toy_model.schedule.split(uncond + 3.0 * (cond - uncond), noise, first.level)
        loss = (ddim_step(prediction, first.level, first.level_prev) - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, embeds)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        update = (mean / (1 - 0.9**count)) / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
        embeds = (embeds - 1e-2 * update).detach()
    start = condition.text[[1]]
    torch.testing.assert_close(found.null_embeds[0] - start, embeds - start, rtol=1e-3, atol=1e-6)


def test_images_come_out_as_if_alone_to_the_bit(toy_model: Any) -> None:
    batch = invert(toy_model, clean(2))
    one = invert(toy_model, clean(2)[[1]])
    assert batch.null_embeds is not None
    assert one.null_embeds is not None
    assert torch.equal(batch.null_embeds[:, 1], one.null_embeds[:, 0])
    assert torch.equal(batch.noise[1], one.noise[0])


def test_tuning_starts_at_the_negative_prompt(toy_model: Any) -> None:
    negative = toy_model.encode_prompt("a red hat")
    found = invert(toy_model, clean(), negative=negative, inner_steps=1)
    assert found.null_embeds is not None
    assert float((found.null_embeds[0] - negative.text).abs().max()) <= 1.001e-2


def test_without_guidance_nothing_is_tuned(toy_model: Any) -> None:
    before = toy_model.evaluations
    found = invert(toy_model, clean(), guidance_scale=1.0)
    assert toy_model.evaluations - before == 4
    assert found.null_embeds is not None
    assert len(found.null_embeds) == 4
    assert found.guidance_scale == 1.0


def test_a_reconstruction_that_misses_is_told(toy_model: Any) -> None:
    with pytest.warns(UserWarning, match=r"does not reconstruct the image \(relative error .*inner_steps"):
        invert(toy_model, clean())


def test_progress_tells_both_stages(toy_model: Any) -> None:
    from sfumato.watch import Watch

    stages: list[str] = []
    invert(toy_model, clean(), watch=Watch(progress=lambda progress: stages.append(progress.stage)))
    assert list(dict.fromkeys(stages)) == ["inverting", "optimising"]
