"""Rows of a network call that are not guidance x branches: for methods where a branch needs fewer or more of them.

The loop's own rows give every branch an unconditional and a conditional half. A source whose latents are known needs no
guidance (Plug-and-Play: one row instead of two), a semantic guidance term needs a row of its own (LEDITS++). Such a
method lists its rows, calls `predict` in its `guide`, and puts its controls `under` them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Control, Layout


@dataclass(frozen=True)
class Row:
    """One row of a network call, for every image.

    Attributes:
        name: Controls see it as a branch of this name.
        branch: Index of the branch whose latents it takes.
        condition: What it is conditioned on; one row, or one an image. All rows of a call have equally many tokens.
    """

    name: str
    branch: int
    condition: Condition


class Rows:
    """The rows of a method, in the order in which controls see them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)

    def index(self, name: str) -> int:
        """Position of a row."""
        return [row.name for row in self.rows].index(name)

    def predict(self, model: Model, latents: Tensor, t: float) -> Tensor:
        """Network output of every row, (row, image, channels, height, width), in one call.

        Args:
            model: Any model.
            latents: (branch, image, channels, height, width).
            t: Timestep that the network is conditioned on.
        """
        images = latents.shape[1]
        inputs = torch.cat([latents[row.branch] for row in self.rows])
        condition = Condition.cat([row.condition.expand(images) for row in self.rows])
        output: Tensor = model.predict(inputs, t, condition).unflatten(0, (len(self.rows), images))
        return output

    def under(self, control: Control) -> Control:
        """The control with these rows as its branches and a single, conditional guidance half."""
        return _Under(control, tuple(row.name for row in self.rows))


class _Under:
    """A control that sees another layout than the loop's."""

    reads_unconditional = False

    def __init__(self, control: Control, names: tuple[str, ...]) -> None:
        self.control, self.names = control, names

    @contextmanager
    def installed(self, model: Model, layout: Layout) -> Iterator[Any]:
        with self.control.installed(model, Layout(("cond",), self.names, layout.images, layout.latent_size)) as inside:
            yield inside

    def at_step(self, step: Step) -> None:
        self.control.at_step(step)

    def acts(self, step: Step) -> bool:
        return self.control.acts(step)
