"""The state of a student's training: one update after another, and all that a checkpoint holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from sfumato.distillation.losses import Critic, Weights, terms
from sfumato.distillation.pairs import Pairs, moved_alike, rows_of_step, turned_alike
from sfumato.errors import SamplingError
from sfumato.metrics.distance import Distance

EVALUATIONS = 20
"""In all; the last one is after the last step."""
PATIENCE = 4
"""Evaluations in succession without a better one, in the second half, after which training ends."""


@dataclass(frozen=True)
class Plan:
    """How a student is trained.

    Attributes:
        steps: Updates; None: as many as fit into `minutes`.
        minutes: See there.
        batch: Pairs in a step.
        rate: Largest learning rate; it rises for a tenth of the steps, then falls to nothing.
        critic_from: Share of the steps before the critic begins.
        average: Of how many steps, about, the weights are averaged.
        shift: See `moved_alike`.
        mirror: Whether left and right of the images may change places.
        hue: See `turned_alike`.
        seed: Of all draws.
        weights: Of the losses.
    """

    steps: int | None = None
    minutes: float | None = 10.0
    batch: int = 4
    rate: float = 2e-3
    critic_from: float = 1 / 3
    average: int = 200
    shift: float = 0.1
    mirror: bool = True
    hue: float = 0.0
    seed: int = 0
    weights: Weights = field(default_factory=Weights)


class TrainingState:
    """The state of a training."""

    def __init__(self, pupil: Any, training: Pairs, held_out: Pairs, plan: Plan, distance: Distance | None) -> None:
        self.pupil, self.training, self.held_out, self.plan, self.distance = pupil, training, held_out, plan, distance
        self.parameters: list[Tensor] = [one for one in pupil.parameters() if one.requires_grad]
        self.device = self.parameters[0].device
        self.critic = self._fresh_critic()
        self.optimizers = {
            "pupil": torch.optim.AdamW(self.parameters, lr=plan.rate, betas=(0.9, 0.99), weight_decay=1e-4),
            "critic": torch.optim.AdamW(self.critic.parameters(), lr=plan.rate / 4, betas=(0.5, 0.99)),
        }
        self.average = parameters_to_vector(self.parameters).detach().clone()
        self.start, self.best = self.average.clone(), self.average.clone()
        self.step, self.steps, self.poor, self.slower = 0, 0, 0, 1.0
        self.scores: list[float] = []
        self.seconds = 0.0
        self.notes: list[str] = []

    def _fresh_critic(self) -> Critic:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed + 1)
            return Critic().to(self.device)

    def trial(self) -> TrainingState:
        """Another run of the same network, in which the critic works from the first step."""
        plan = replace(self.plan, critic_from=0.0)
        found = TrainingState(self.pupil, self.training, self.held_out, plan, self.distance)
        found.steps = 10**6
        return found

    @property
    def ended(self) -> bool:
        """Whether the held-out pairs say that it is enough."""
        return self.poor >= PATIENCE and self.step > self.steps // 2

    def advance(self) -> dict[str, float]:
        """One update, and an evaluation where one is due; gives the losses."""
        losses = self._update()
        if not all(math.isfinite(value) for value in losses.values()):
            self._back_to_the_best()
            return losses
        self.step += 1
        keep = min(1.0 - 1.0 / self.plan.average, self.step / (self.step + 9.0))
        self.average.lerp_(parameters_to_vector(self.parameters).detach(), 1.0 - keep)
        if self.step % max(1, self.steps // EVALUATIONS) == 0 or self.step == self.steps:
            self._evaluate()
        return losses

    def _update(self) -> dict[str, float]:
        sources, targets = self._batch()
        adversarial = self.plan.weights.adversarial if self.step >= self.plan.critic_from * self.steps else 0.0
        for optimizer, scale in zip(self.optimizers.values(), (1.0, 0.25), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = scale * self.plan.rate * self.slower * rate_at(self.step, self.steps)
        with torch.enable_grad():
            edited = self.pupil(sources)
            losses = terms(edited, sources, targets, self.plan.weights, self.distance)
            if adversarial:
                self.critic.requires_grad_(False)
                losses["adversarial"] = -adversarial * self.critic(sources, edited.pixels).mean()
            total = torch.stack(list(losses.values())).sum()
            found = {name: float(value.detach()) for name, value in losses.items()}
            if not math.isfinite(sum(found.values())):
                return found
            self._take("pupil", total, self.parameters)
            if adversarial:
                self.critic.requires_grad_(True)
                verdict = self.critic.loss(sources, targets, edited.pixels)
                self._take("critic", verdict, list(self.critic.parameters()))
        return found

    def _take(self, name: str, loss: Tensor, parameters: list[Tensor]) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        clip_grad_norm_(parameters, 1.0)
        self.optimizers[name].step()

    def _batch(self) -> tuple[Tensor, Tensor]:
        plan = self.plan
        rows = rows_of_step(self.step, plan.batch, len(self.training), plan.seed)
        generator = torch.Generator().manual_seed(plan.seed + 2 + self.step)
        pixels = self.training.pixels(rows)
        pixels = moved_alike(*pixels, generator, shift=plan.shift, mirror=plan.mirror)
        sources, targets = turned_alike(*pixels, generator, hue=plan.hue)
        return sources.to(self.device), targets.to(self.device)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Scores the averaged weights on the held-out pairs, and keeps them when they are the best so far."""
        own = parameters_to_vector(self.parameters).clone()
        vector_to_parameters(self.average, self.parameters)
        weights, found = replace(self.plan.weights, gate=0.0), []
        for row in range(len(self.held_out)):
            sources, targets = (one.to(self.device) for one in self.held_out.pixels([row]))
            losses = terms(self.pupil(sources), sources, targets, weights, self.distance)
            found.append(float(torch.stack(list(losses.values())).sum()))
        vector_to_parameters(own, self.parameters)
        score = sum(found) / len(found)
        if math.isfinite(score) and score < min(self.scores, default=math.inf):
            self.best, self.poor = self.average.clone(), 0
        else:
            self.poor += 1
        self.scores.append(score if math.isfinite(score) else math.inf)

    def _back_to_the_best(self) -> None:
        """After a loss that is no number: the best weights so far, half the rate, once."""
        if self.slower < 1.0:
            raise SamplingError(
                f"the losses became NaN twice, at step {self.step + 1}: train on other pairs, or with another seed"
            )
        self.slower = 0.5
        self.notes.append(f"NaN losses at step {self.step + 1}: went on from the best weights at half the rate")
        good = self.best if self.scores else self.start
        vector_to_parameters(good.clone(), self.parameters)
        self.average = good.clone()
        if not all(bool(value.isfinite().all()) for value in self.critic.state_dict().values()):
            self.critic.load_state_dict(self._fresh_critic().state_dict())
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        self.step += 1  # another batch
        if self.step == self.steps:
            self._evaluate()

    def tensors(self) -> dict[str, Tensor]:
        """All that a run needs to go on, each part of the network as one vector."""
        found = {
            "pupil": parameters_to_vector(self.parameters),
            "average": self.average,
            "best": self.best,
            "scores": torch.tensor(self.scores, dtype=torch.float64),
            **{f"critic/{name}": value for name, value in self.critic.state_dict().items()},
        }
        for name, optimizer in self.optimizers.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                values = [state[moment].flatten() for state in optimizer.state.values()]
                found |= {f"{name}/{moment}": torch.cat(values)} if values else {}
        return found

    def fields(self) -> dict[str, Any]:
        """The same for what are no tensors."""
        counted = {
            name: int(next(iter(one.state.values()))["step"]) if one.state else 0
            for name, one in self.optimizers.items()
        }
        return {
            "step": self.step, "steps": self.steps, "poor": self.poor, "slower": self.slower, "notes": self.notes,
            "counted": counted, "seconds": self.seconds,
        }  # fmt: skip

    def restore(self, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """Sets everything to what `tensors` and `fields` gave."""
        self.step, self.steps, self.poor = fields["step"], fields["steps"], fields["poor"]
        self.slower, self.notes = fields["slower"], list(fields["notes"])
        self.seconds, self.scores = fields.get("seconds", 0.0), tensors["scores"].tolist()
        self.average, self.best = (tensors[name].to(self.device) for name in ("average", "best"))
        vector_to_parameters(tensors["pupil"].to(self.device), self.parameters)
        own = {name.removeprefix("critic/"): value for name, value in tensors.items() if name.startswith("critic/")}
        self.critic.load_state_dict({name: own[name] for name in self.critic.state_dict()})
        for name, optimizer in self.optimizers.items():
            if count := fields["counted"][name]:
                _restore_moments(optimizer, count, {m: tensors[f"{name}/{m}"] for m in ("exp_avg", "exp_avg_sq")})


def _restore_moments(optimizer: torch.optim.Optimizer, count: int, moments: Mapping[str, Tensor]) -> None:
    place = 0
    for parameter in optimizer.param_groups[0]["params"]:
        until = place + parameter.numel()
        state = {name: flat[place:until].view_as(parameter).to(parameter).clone() for name, flat in moments.items()}
        optimizer.state[parameter] = {"step": torch.tensor(float(count)), **state}
        place = until


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate: up for a tenth of the steps, then down as a cosine to a hundredth."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    share = (step - rise) / max(1, steps - rise)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * share))
