"""Trains a student on pairs: a loop that can be killed at any moment and comes to the same weights.

Which pairs a step sees and how they are moved follows from its number; weights, averages and the optimisers' moments
are in the checkpoint. Early stopping looks at pairs that are held out, by pixels and features, as sharpness is what
pixels alone do not see.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor
from torch.nn.utils import vector_to_parameters

from sfumato.adaptation.store import Slot
from sfumato.adaptation.training import unbroken
from sfumato.distillation.pairs import Pairs
from sfumato.distillation.student import Edited
from sfumato.distillation.training_state import Plan as Plan  # it is found here
from sfumato.distillation.training_state import TrainingState
from sfumato.errors import UsageError
from sfumato.metrics.distance import Distance
from sfumato.watch import Watch

SECONDS_BETWEEN_SAVES = 30.0
TRIAL_STEPS = 4
MOST_SEEDS = 2**62
"""Seeds beyond would leave what a generator takes: every step adds to them."""
SHARE_OF_STEPS = 0.95
"""Of the time; the rest is for evaluations and checkpoints."""


class Pupil(Protocol):
    """What can be trained: a module that edits pixels, whose trained weights require a gradient."""

    def __call__(self, pixels: Tensor) -> Edited: ...

    def parameters(self) -> Any: ...


@dataclass(frozen=True)
class Standing:
    """How training stands.

    Attributes:
        step, steps: Updates done, and in all.
        losses: Of the latest step, by name.
        held_out: Score of the averaged weights on the held-out pairs at the latest evaluation; lower is better.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    held_out: float | None = None


@dataclass(frozen=True)
class Trained:
    """How training ended; the student holds the best averaged weights.

    Attributes:
        steps: Updates done.
        planned: Updates planned.
        score: On the held-out pairs, lower is better.
        scores: At each evaluation.
        notes: What happened on the way.
        seconds: Wall-clock time, that of runs that were stopped included, as far as it was kept.
    """

    steps: int
    planned: int
    score: float
    scores: tuple[float, ...]
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)


def train(
    pupil: Any,
    training: Pairs,
    held_out: Pairs,
    plan: Plan,
    *,
    distance: Distance | None = None,
    slot: Slot | None = None,
    watch: Watch | None = None,
    tell: Callable[[Standing], None] | None = None,
) -> Trained:
    """Trains a student in place, from the checkpoint on where there is one.

    Args:
        pupil: A `Pupil`, freshly made.
        training, held_out: From `Pairs.split`.
        plan: How.
        distance: Differentiable perceptual distance of the features loss.
        slot: Where the run is kept: every half minute, when it stops for whatever reason, and in the end.
        watch: Progress and cancellation.
        tell: Called after each step with the losses.

    Raises:
        UsageError: The minutes are too few for one epoch.
        SamplingError: The losses became NaN twice.
        Cancelled: The watch asked to stop.
    """
    plan = replace(plan, batch=min(plan.batch, len(training)), seed=plan.seed % MOST_SEEDS)
    watch = (watch or Watch()).during("training")
    run = TrainingState(pupil, training, held_out, plan, distance)
    with nullcontext() if slot is None else slot.locked(watch):
        key = _key(training, held_out, plan, run)
        kept, begun = None if slot is None else slot.load(), time.monotonic()
        if kept is not None and kept[1].get("key") == key:
            run.restore(*kept)
        else:
            run.steps = plan.steps or steps_in(run, plan.minutes or 0.0)
        saved, since, before = run.step, time.monotonic(), run.seconds
        try:
            for _ in watch.over(range(run.step, run.steps)):
                if run.ended:
                    break
                with unbroken():
                    losses = run.advance()
                    run.seconds = before + time.monotonic() - begun
                if tell is not None:
                    tell(Standing(run.step, run.steps, losses, run.scores[-1] if run.scores else None))
                if slot is not None and time.monotonic() - since > SECONDS_BETWEEN_SAVES:
                    slot.save(run.tensors(), {"key": key, **run.fields()})
                    saved, since = run.step, time.monotonic()
        finally:
            if slot is not None and run.step > saved:
                slot.save(run.tensors(), {"key": key, **run.fields()})
    vector_to_parameters(run.best, run.parameters)
    early = (f"training ended at step {run.step} of {run.steps}: the held-out pairs no longer improved",)
    notes = (*run.notes, *(early if run.step < run.steps else ()))
    return Trained(run.step, run.steps, min(run.scores), tuple(run.scores), notes, run.seconds)


def steps_in(run: TrainingState, minutes: float) -> int:
    """Steps that fit into the minutes, by the time that some take on a copy.

    Raises:
        UsageError: They are too few for one epoch.
    """
    trial = run.trial()
    trial.advance()
    start = time.perf_counter()
    for _ in range(TRIAL_STEPS):
        trial.advance()
    seconds = (time.perf_counter() - start) / TRIAL_STEPS
    vector_to_parameters(run.start.clone(), run.parameters)
    steps, epoch = int(SHARE_OF_STEPS * 60.0 * minutes / seconds), math.ceil(len(run.training) / run.plan.batch)
    if steps < epoch:
        raise UsageError(
            f"minutes={minutes:g} is too short to see all {len(run.training)} pairs once, which takes about"
            f" {epoch * seconds / 60:.1f} minutes: give some twenty times that"
        )
    return steps


def _key(training: Pairs, held_out: Pairs, plan: Plan, run: TrainingState) -> str:
    """Equal for runs that come to the same weights."""
    name = None if run.distance is None else run.distance.name
    start = hashlib.sha256(run.start.cpu().numpy().tobytes()).hexdigest()
    content = [training.digest(), held_out.digest(), asdict(plan), name, start]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
