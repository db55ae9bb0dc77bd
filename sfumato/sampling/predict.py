"""Predictions of named branches outside of the loop, at any times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sfumato.models.base import Model
from sfumato.models.schedules import Prediction
from sfumato.sampling.guidance import guided_output
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import RunConditions, layout_of


class Predictor:
    """What the network says in each of several branches, after guidance, in one call."""

    def __init__(self, model: Model, branches: Mapping[str, Branch], images: Tensor) -> None:
        """Encodes nothing anew; guidance scales are the same at all times.

        Args:
            model: Any model.
            branches: By name, in order.
            images: Any latents of the images, (image, channels, height, width), for their shape.
        """
        self._model = model
        self._step = model.schedule.steps(1)[0]
        latents = images.expand(len(branches), *images.shape)
        self._layout = layout_of(model, branches, [self._step], latents, None, None, ())
        self._condition = RunConditions(model, branches, self._layout, None).at(self._step)
        self._scales = torch.tensor([branch.scale(self._step) for branch in branches.values()]).to(images)

    def __call__(self, latents: Tensor, times: Sequence[Sequence[float]]) -> Prediction:
        """Clean latents and noise, both shaped like the latents.

        Args:
            latents: (branch, image, channels, height, width).
            times: Of each image of each branch.
        """
        names = self._layout.branches
        rows = [time for _, name in self._layout.cells for time in times[names.index(name)]]
        output = guided_output(self._model, latents, rows, self._condition, self._scales, self._layout)
        schedule = self._model.schedule
        parts = [
            [
                schedule.split(made, given, schedule.level(time))
                for made, given, time in zip(made_of, given_of, times_of, strict=True)
            ]
            for made_of, given_of, times_of in zip(output, latents, times, strict=True)
        ]
        return Prediction(
            torch.stack([torch.stack([part.x0 for part in row]) for row in parts]),
            torch.stack([torch.stack([part.eps for part in row]) for row in parts]),
        )
