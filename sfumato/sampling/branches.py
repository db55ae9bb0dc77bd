"""The guided output of named branches, for recipes that walk by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from sfumato.models.base import Model
from sfumato.models.schedules import Prediction, Step
from sfumato.sampling.guidance import guidance_halves, guided_output
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import RunConditions, unneeded


class GuidedBranches:
    """The guided prediction of several branches, each at latents of its own: for recipes that walk by themselves."""

    def __init__(
        self,
        model: Model,
        branches: Mapping[str, Branch],
        images: int,
        steps: Sequence[Step],
        *,
        classifier_free: bool = False,
    ) -> None:
        """Sets what will be asked.

        Args:
            model: Any model.
            branches: Name to branch, in order.
            images: How many each has.
            steps: Those that will be walked.
            classifier_free: Guide away from the negative condition by a row of its own, also where the network takes
                the guidance scale as an input: it is given 1 then.
        """
        guided = any(branch.scale(step) != 1.0 for branch in branches.values() for step in steps)
        self.model, self.branches = model, branches
        self._halves = ("uncond", "cond") if guided and classifier_free else guidance_halves(model, guided)
        self._images = images
        self._rows: tuple[Layout, RunConditions] | None = None

    def output(self, latents: Tensor, step: Step, *, time: float | Sequence[Sequence[float]] | None = None) -> Tensor:
        """The network's output after guidance, shaped like the latents, (branch, image, channels, height, width).

        Args:
            latents: At the level of `time`.
            step: Sets the guidance scales.
            time: What the network is conditioned on; or that of each image of each branch; None: the step's.
        """
        if self._rows is None:
            layout = Layout(self._halves, tuple(self.branches), self._images, (latents.shape[-2], latents.shape[-1]))
            self._rows = layout, RunConditions(self.model, self.branches, layout, None)
        layout, conditions = self._rows
        if len(self._halves) == 2:
            layout.drop(unneeded(self.branches, step))
        scales = torch.tensor([branch.scale(step) for branch in self.branches.values()]).to(latents)
        at: float | Sequence[float]
        if isinstance(time, Sequence):
            at = [one for _, name in layout.cells for one in time[layout.branches.index(name)]]
        else:
            at = step.time if time is None else time
        return guided_output(self.model, latents, at, conditions.at(step), scales, layout)

    def predict(self, latents: Tensor, step: Step) -> Prediction:
        """Clean latents and noise after guidance, for latents at the step's level."""
        return self.model.schedule.split(self.output(latents, step), latents, step.level)

    def predict_at(self, latents: Tensor, times: Sequence[Sequence[float]], step: Step) -> Prediction:
        """As `predict`, for latents at the levels of the times of each image of each branch."""
        output, schedule = self.output(latents, step, time=times), self.model.schedule
        each = zip(output.flatten(0, 1), latents.flatten(0, 1), chain.from_iterable(times), strict=True)
        found = [schedule.split(made, given, schedule.level(time)) for made, given, time in each]
        return Prediction(*(torch.stack([getattr(p, part) for p in found]).view_as(latents) for part in ("x0", "eps")))
