r"""How source and target differ in what the network says of clean latents: what edits without an inversion go by.

Both are given the same noise at the same level (s, n). The source's latents are s x + n eps; the target's take part in
what was edited so far, s y + n eps. Then

.. math:: \Delta = \hat x_0(s y + n \epsilon, \text{target}) - \hat x_0(s x + n \epsilon, \text{source}).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.edits.task import EditTask
from sfumato.models.schedules import Level, Prediction, Step
from sfumato.sampling.layout import Branch

Times = Sequence[float]
"""One for each image."""


@dataclass(frozen=True)
class Pair:
    """What the network says at one level.

    Attributes:
        source: (1 or target, image, channels, height, width).
        target: (target, image, channels, height, width).
    """

    source: Prediction
    target: Prediction

    @property
    def clean(self) -> Tensor:
        """Clean latents of the target less those of the source."""
        return self.target.x0 - self.source.x0

    @property
    def noise(self) -> Tensor:
        """Noise of the target less that of the source."""
        return self.target.eps - self.source.eps


class Differences:
    """Predictions of source and target prompts at levels of one's own choice, all in one network call."""

    def __init__(self, task: EditTask, *, levels: int = 1, source_per_target: bool = False) -> None:
        """Encodes the prompts.

        Args:
            task: Its model, prompts and guidance scales.
            levels: How many levels a call has.
            source_per_target: The source's latents differ from target to target, so that each has a row of its own.
        """
        self._schedule, self._targets = task.model.schedule, len(task.target_prompts)
        self._step = task.steps_from(0)[0]
        self._sources = self._targets if source_per_target else 1
        self._levels, branches = levels, task.branches
        source = branches.pop("source")
        rows: dict[str, Branch] = {}
        for level in range(levels):
            rows |= {f"source-{k}-{level}": source for k in range(self._sources)}
            rows |= {f"{name}-{level}": branch for name, branch in branches.items()}
        self._rows = task.guided(rows, [self._step])

    def __call__(self, source: Tensor, target: Tensor, noise: Tensor, times: Sequence[Times]) -> list[Pair]:
        """What the network says at each level.

        Args:
            source: Clean latents for the source prompt, (1 or target, image, channels, height, width).
            target: Clean latents so far, (target, image, channels, height, width).
            noise: One draw for all, (image, channels, height, width).
            times: Of the levels, each one for each image.
        """
        both = torch.cat([source, target])
        noisy = torch.cat([self._noised(both, noise, time) for time in times])
        said = self._rows.predict_at(noisy, [time for time in times for _ in range(len(both))], self._step)
        found = []
        for x0, eps in zip(said.x0.chunk(self._levels), said.eps.chunk(self._levels), strict=True):
            of_source = Prediction(x0[: self._sources], eps[: self._sources])
            found.append(Pair(of_source, Prediction(x0[self._sources :], eps[self._sources :])))
        return found

    def _noised(self, clean: Tensor, noise: Tensor, times: Times) -> Tensor:
        signal, strength = levels_of([self._schedule.level(time) for time in times], clean)
        return signal * clean + strength * noise


def levels_of(levels: Sequence[Level], like: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise of one level an image, each (image, 1, 1, 1)."""
    signal, noise = ([getattr(level, name) for level in levels] for name in ("signal", "noise"))
    return tuple(torch.tensor(part).to(like).view(-1, 1, 1, 1) for part in (signal, noise))  # type: ignore[return-value]


def held(task: EditTask, clean: Tensor, edited: Tensor, index: int, count: int, time: float) -> Tensor:
    """Edited clean latents after the task's hooks, such as one that keeps the image outside a mask.

    Args:
        task: With the hooks.
        clean: Of the images, (image, channels, height, width), which the hooks see as branch 0.
        edited: (target, image, channels, height, width).
        index, count: Which iteration of how many.
        time: Of its level.
    """
    schedule = task.model.schedule
    step = Step(index, count, time, -1, schedule.level(time), schedule.level(-1))
    latents = task.after(torch.cat([clean[None], edited]), step)
    task.watch.show(index, latents)
    return latents[1:]
