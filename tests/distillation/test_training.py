"""A student learns an edit; a training that is killed comes to the same weights; broken losses are survived once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.adaptation.store import Store
from sfumato.distillation import training as module
from sfumato.distillation import training_state
from sfumato.distillation.losses import Critic, Weights, changed_by, edge_difference, terms
from sfumato.distillation.pairs import Pairs, as_pixels, moved_alike, rows_of_step, turned_alike
from sfumato.distillation.student import Arch, Edited, fresh
from sfumato.distillation.training import Plan, Standing, Trained, train
from sfumato.distillation.training_state import rate_at
from sfumato.errors import Cancelled, SamplingError, UsageError
from sfumato.metrics.distance import PixelDistance
from sfumato.watch import Watch
from tests.distillation.toy_pairs import SMALL, squares

PLAN = Plan(steps=30, minutes=None, batch=4, average=5, seed=3)


def trained(pairs: Pairs, plan: Plan = PLAN, arch: Arch = SMALL, **more: Any) -> tuple[torch.nn.Module, Trained]:
    student = fresh(arch, plan.seed)
    return student, train(student, *pairs.split(), plan, distance=PixelDistance(), **more)


def weights_of(student: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in student.state_dict().values()])


def test_a_student_learns_the_edit_and_keeps_the_rest() -> None:
    told: list[Standing] = []
    student, done = trained(squares(24), replace(PLAN, steps=100, rate=4e-3, average=10), tell=told.append)
    first, last = (sum(one.losses.values()) for one in (told[0], told[-1]))
    assert last < first / 2
    assert done.score == min(done.scores) < done.scores[0]
    unseen = squares(8, seed=9)
    sources, targets = unseen.pixels(range(8))
    edited = student(sources).pixels
    assert (edited - targets).abs().mean() < (sources - targets).abs().mean() / 4
    outside = (changed_by(sources, targets) == 0).expand_as(sources)
    assert (edited - sources).abs()[outside].mean() < 0.06


def test_a_student_of_no_edit_gives_the_image() -> None:
    pairs = squares(24)
    student, _ = trained(
        Pairs(pairs.names, pairs.sources, pairs.sources), replace(PLAN, steps=120, rate=5e-3, average=10)
    )
    sources, _ = squares(8, seed=9).pixels(range(8))
    error = (student(sources).pixels.detach() - sources).square().mean() / 4
    assert -10 * math.log10(float(error)) >= 45


def test_any_seed_can_be_trained_by() -> None:
    for seed in (2**64 - 1, -(2**63)):
        assert trained(squares(24), replace(PLAN, steps=2, seed=seed))[1].steps == 2


@pytest.mark.parametrize("stops", [(3,), (12, 13, 29)])
def test_a_training_that_is_stopped_comes_to_the_same_weights(stops: tuple[int, ...], tmp_path: Path) -> None:
    whole, whole_done = trained(squares(24))
    slot = Store(tmp_path).slot("training")
    told: list[Standing] = []
    for stop in stops:

        def cancelled(stop: int = stop) -> bool:
            return bool(told) and told[-1].step >= stop

        with pytest.raises(Cancelled):
            trained(squares(24), slot=slot, tell=told.append, watch=Watch(cancelled=cancelled))
        assert told[-1].step == stop
    told.clear()
    again, again_done = trained(squares(24), slot=slot, tell=told.append)
    assert told[0].step == stops[-1] + 1
    assert torch.equal(weights_of(again), weights_of(whole))
    assert again_done == whole_done
    assert trained(squares(24), slot=slot)[1].seconds == again_done.seconds > 0  # of all runs together


def test_a_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    slot = Store(tmp_path).slot("training")
    trained(squares(24), slot=slot)
    told: list[Standing] = []
    trained(squares(24, seed=1), slot=slot, tell=told.append)
    assert told[0].step == 1


def test_a_loss_that_is_no_number_costs_half_the_rate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_at(*steps: int) -> None:
        calls = 0

        def found(*args: Any) -> dict[str, torch.Tensor]:
            nonlocal calls
            calls += torch.is_grad_enabled()
            losses = terms(*args)
            return {**losses, "pixels": losses["pixels"] * math.nan} if calls in steps else losses

        monkeypatch.setattr(training_state, "terms", found)

    broken_at(10)
    student, done = trained(squares(24))
    assert "half the rate" in done.notes[0]
    assert weights_of(student).isfinite().all()
    broken_at(10, 20)
    with pytest.raises(SamplingError, match="NaN twice"):
        trained(squares(24))


def test_a_critic_that_broke_down_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, loss = 0, Critic.loss

    def broken(self: Critic, *args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(self, *args) * (math.nan if calls == 5 else 1.0)

    monkeypatch.setattr(Critic, "loss", broken)
    student, done = trained(squares(24))
    assert "half the rate" in done.notes[0]
    assert done.steps == PLAN.steps
    assert weights_of(student).isfinite().all()


def test_minutes_become_steps_and_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: 7.5 * next(ticks))  # 1.9 seconds a step
    pairs = squares(24)
    told: list[Standing] = []
    trained(pairs, replace(PLAN, steps=None, minutes=0.4), tell=told.append)
    assert told[-1].steps == 12
    with pytest.raises(UsageError, match=r"minutes=0\.1 is too short to see all 22 pairs once.*about 0\.2 minutes"):
        trained(pairs, replace(PLAN, steps=None, minutes=0.1))


def test_minutes_leave_no_trace_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: 7.5 * next(ticks))
    timed, _ = trained(squares(24), replace(PLAN, steps=None, minutes=1.0))
    stepped, _ = trained(squares(24))
    assert torch.equal(weights_of(timed), weights_of(stepped))


def test_training_ends_when_held_out_pairs_no_longer_improve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "PATIENCE", 1)
    _, done = trained(squares(24), replace(PLAN, steps=60, rate=0.0))
    assert done.steps < done.planned == 60
    assert "no longer improved" in done.notes[0]


def test_an_epoch_sees_each_pair_once() -> None:
    seen = [row for step in range(6) for row in rows_of_step(step, 4, 12, seed=5)]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_both_sides_of_a_pair_move_alike() -> None:
    pairs = squares(6)
    sources, targets = pairs.pixels(range(6))
    moved = moved_alike(sources, targets, torch.Generator().manual_seed(0), shift=0.2, mirror=True)
    assert not torch.equal(moved[0], sources)
    blue = as_pixels(torch.tensor([20, 20, 250], dtype=torch.uint8))[:, None, None]
    red = as_pixels(torch.tensor([250, 20, 20], dtype=torch.uint8))[:, None, None]
    assert torch.equal((moved[0] == red).all(dim=1), (moved[1] == blue).all(dim=1))


def test_losses_are_zero_for_the_teachers_own_result() -> None:
    sources, targets = squares(2).pixels(range(2))
    gate = 20.0 - 40.0 * changed_by(sources, targets)
    found = terms(Edited(targets, gate, torch.zeros(2, 1)), sources, targets, Weights(), PixelDistance())
    assert sorted(found) == ["edges", "features", "gate", "pixels"]
    assert all(float(value) < 1e-6 for value in found.values())
    assert float(edge_difference(torch.ones(1, 3, 4, 4))) == 0
    wrong = terms(Edited(sources, gate, torch.zeros(2, 1)), sources, targets, Weights(), None)
    assert float(wrong["pixels"]) > float((sources - targets).abs().mean())  # what changes counts more


def test_the_critic_learns_to_tell_the_teachers_results() -> None:
    torch.manual_seed(0)
    critic, (sources, targets) = Critic(8), squares(8).pixels(range(8))
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        critic.loss(sources, targets, sources).backward()
        optimizer.step()
    assert critic(sources, targets).mean() > critic(sources, sources).mean() + 0.5


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == 1.0
    assert rates[-1] < 0.02


def test_hues_of_both_sides_turn_alike_and_luma_stays() -> None:
    sources, targets = (0.4 * one for one in squares(6).pixels(range(6)))
    turned = turned_alike(sources, targets, torch.Generator().manual_seed(1), hue=30.0)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for before, after in zip((sources, targets), turned, strict=True):
        assert torch.allclose((before * luma).sum(1), (after * luma).sum(1), atol=1e-4)
        assert float((before - after).abs().max()) > 0.02
    same = (sources == targets).all(1, keepdim=True)
    assert torch.allclose(turned[0] * same, turned[1] * same, atol=1e-6)
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert torch.allclose(turned_alike(grey, grey, torch.Generator().manual_seed(1), hue=90.0)[0], grey, atol=2e-3)
    still = turned_alike(sources, targets, torch.Generator(), hue=0.0)
    assert torch.equal(still[0], sources)
