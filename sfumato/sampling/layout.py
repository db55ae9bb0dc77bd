"""Named branches, and the axes behind the rows of a network call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.shares import whole_steps
from sfumato.sampling.solvers import Solver
from sfumato.sampling.stepper import Stepper

Scale = float | Callable[[Step], float]

WHOLE_RUN = (0.0, 1.0)
"""All steps, as (start, end) in shares of them."""


def limited(scale: float, interval: tuple[float, float]) -> Scale:
    """A guidance scale in an interval of the run, and 1 (off) outside of it.

    Reference: Kynkaanniemi et al., 2024, https://arxiv.org/abs/2404.07724.

    Args:
        scale: w, at least 1.
        interval: (start, end) in shares of all steps of the grid, from the noisy end: of N steps those from
            int(N start) to before int(N end).
    """
    if interval == WHOLE_RUN or scale == 1.0:
        return scale
    start, end = interval

    def at(step: Step) -> float:
        inside = whole_steps(start, step.num_steps) <= step.index < whole_steps(end, step.num_steps)
        return scale if inside else 1.0

    return at


@dataclass(frozen=True)
class Branch:
    """What one branch of a run sees.

    Attributes:
        condition: Its prompt; one row, or one row an image.
        negative: The negative prompt; None: the empty prompt.
        guidance_scale: w in uncond + w (cond - uncond); 1 = off; may depend on the step.
    """

    condition: Condition
    negative: Condition | None = None
    guidance_scale: Scale = 1.0

    def scale(self, step: Step) -> float:
        return self.guidance_scale(step) if callable(self.guidance_scale) else self.guidance_scale


@dataclass
class Layout:
    """The rows of a run's network calls, and the axes under which controls see them.

    A network call has rows in the order (guidance, branch, image), without the unconditional rows that nothing needs. A
    view has all of (guidance, branch, image): the one row of such a branch stands in both halves. So the axes of a view
    are the same in all steps of a run, whichever rows a step needs.

    Attributes:
        guidance: ("uncond", "cond"), or ("cond",) where no branch is guided.
        branches: Names, in order.
        images: Images in the batch.
        latent_size: (height, width) of the latents.
        single: Branches without an unconditional row; the loop sets them for each step, see `drop`.
        cells: (guidance, branch) of each row of one image.
    """

    guidance: tuple[str, ...]
    branches: tuple[str, ...]
    images: int
    latent_size: tuple[int, int]
    single: frozenset[str] = frozenset()
    cells: tuple[tuple[str, str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.drop(self.single)

    def drop(self, single: frozenset[str]) -> None:
        """Leaves the unconditional rows of these branches out of the network calls from now on, and of no others."""
        every = [(half, name) for half in self.guidance for name in self.branches]
        self.single = single
        self.cells = tuple((half, name) for half, name in every if half == "cond" or name not in single)
        self._row_of_cell = [self.cells.index(cell if cell in self.cells else ("cond", cell[1])) for cell in every]
        self._cell_of_row = [every.index(cell) for cell in self.cells]

    @property
    def axes(self) -> tuple[int, int, int]:
        """Of a view: guidance halves, branches, images."""
        return len(self.guidance), len(self.branches), self.images

    @cached_property
    def conditional(self) -> Layout:
        """The layout of the conditional rows alone; they come last."""
        return replace(self, guidance=("cond",), single=frozenset())

    def view(self, rows: Tensor) -> Tensor:
        """Rows of a network call, (row, ...), under the axes (guidance, branch, image, ...)."""
        if self.single:
            rows = rows.unflatten(0, (len(self.cells), self.images))[self._row_of_cell].flatten(0, 1)
        view: Tensor = rows.unflatten(0, self.axes)
        return view

    def rows(self, view: Tensor) -> Tensor:
        """A view, as the rows of a network call: the inverse of `view`."""
        if not self.single:
            return view.flatten(0, 2)
        by_image = view.flatten(0, 1)[self._cell_of_row]
        return by_image.flatten(0, 1)


class Control(Protocol):
    """Something installed in the network for the length of a run.

    Attributes:
        reads_unconditional: Whether a branch may see unconditional rows of others, so that a branch that is not guided
            has one, too, unless it would be its conditional row again.
    """

    @property
    def reads_unconditional(self) -> bool: ...

    def installed(self, model: Model, layout: Layout) -> AbstractContextManager[Any]:
        """Patches the model inside the block, and leaves it as found."""

    def at_step(self, step: Step) -> None:
        """Called before the network call of each step."""

    def acts(self, step: Step) -> bool:
        """Whether it reads or changes something in the network at this step, so that all of it must be computed."""


class Replay(Protocol):
    """What a run may take from an inversion.

    Attributes:
        noise_maps: Noise consumed by each step of the grid, (steps, image, channels, height, width), or None.
        null_embeds: Embedding in place of the empty prompt's at each step, (steps, image, tokens, dim), or None.
        null_extras: Extras of the condition that go with it, (image, ...); others are as they are.
        pinned: Whether branch 0 is set to known latents after every step.
        stepper: What replays it; None: any.
        solver: Makes the velocity of each step of the replay; None: one network output does.
    """

    @property
    def noise_maps(self) -> Tensor | None: ...

    @property
    def null_embeds(self) -> Tensor | None: ...

    @property
    def null_extras(self) -> Mapping[str, Tensor]: ...

    @property
    def pinned(self) -> bool: ...

    @property
    def stepper(self) -> Stepper[Any] | None: ...

    @property
    def solver(self) -> Solver | None: ...

    def latents_at(self, index: int) -> Tensor:
        """Known latents before a step, (image, channels, height, width); after the last, the clean ones."""
