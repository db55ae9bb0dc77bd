"""The first steps of a case: what `make test` runs of the kinds whose smallest case takes a minute or more.

A step at latents of 64x64, or a gradient at 32x32, takes seconds on a processor, and some kinds have no smaller cases.
Of the one with the fewest steps to run, sampling and optimising stop after these. So does the inversion where nothing
but its own steps is compared, or the edit can start where the stored inversion ends; elsewhere it is run to its end, as
the edit starts there. What the case stores step by step is compared as far as the run came, at the case's own
tolerance. `make conformance` runs every case to its end, these included.

Some kinds store the ends of several long runs, not their steps: of frames, of an edit and of what it is held against.
Where `make test` runs these (`part_alone`), their runners make some of the runs and take the others' ends as stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sfumato.watch import Watch
from tests.conformance.golden import Case, Comparison, compare_output

STEPS = 2
LARGE = 32
VERY_LARGE = 64  # a step takes as long as eight at 32x32
INVERTING = "inverting"  # that stage of `Watch`
_PART = ContextVar("part", default=False)


def takes_long(case: Case) -> bool:
    """Whether the case stores latents of 32x32, or larger ones, step by step."""
    return _side(case) >= LARGE


def _side(case: Case) -> int:
    """The shorter side of the largest latents that the case stores step by step; 0 where it stores none."""
    names = [name for stored in case.outputs.values() for name in stored if by_step(case, name)]
    shapes = [case.tensors.shape(name) for name in names]
    return max((min(shape[-2:]) for shape in shapes if len(shape) >= 4), default=0)


def by_step(case: Case, name: str) -> bool:
    """Whether the first axis of a stored tensor is the steps of a run, with or without where the run starts."""
    shape = case.tensors.shape(name)
    return bool(shape) and case.num_steps > 0 and shape[0] - case.num_steps in (0, 1)


def cost(case: Case) -> tuple[int, int, int]:
    """What of the cases of a kind `make test` runs the least: steps of one that takes long, their updates, numbers."""
    steps = steps_to_run(case) if takes_long(case) else 0
    return (steps, _updates(case, steps), case.size)


def _updates(case: Case, steps: int) -> int:
    """How many updates the first steps make, each with a gradient, where the case stores how many each step made."""
    made = case.tensors.get("inner_iterations")
    return 0 if made is None else int(made[:steps].sum())


def steps_to_run(case: Case) -> int:
    """Two, or more where the case names a later step from which its control acts: then that one is the last.

    One in the place of two at latents of 64x64, and one where each step optimises in steps of its own.
    """
    if case.parameters.get("num_inner_steps", 0) > 1:
        return 1
    return max(1 if _side(case) >= VERY_LARGE else STEPS, case.parameters.get("start_step", 0) + 1)


@contextmanager
def stopped_early(steps: int, *, inversions: bool = False) -> Iterator[None]:
    """Inside the block sampling and optimising end after the first steps, as if the run had no others.

    Args:
        steps: How many there are.
        inversions: Inversions end early, too.
    """
    over = Watch.over

    def first(self: Watch, items: Sequence[Any]) -> Iterator[Any]:
        return over(self, items if self.stage == INVERTING and not inversions else items[:steps])

    Watch.over = first  # type: ignore[method-assign]
    try:
        yield
    finally:
        Watch.over = over  # type: ignore[method-assign]


def steps_of_run(num_steps: int) -> int:
    """How many of its steps a run makes here: all, or the first ones inside `stopped_early`."""
    return len(list(Watch().over(range(num_steps))))


@contextmanager
def part_alone() -> Iterator[None]:
    """Inside the block runners of kinds that are registered with `in_part` make some of a case's runs."""
    token = _PART.set(True)
    try:
        yield
    finally:
        _PART.reset(token)


def is_part() -> bool:
    """Whether some of a case's runs are enough."""
    return _PART.get()


def compare_first_steps(case: Case, results: Mapping[str, Any], steps: int) -> list[Comparison]:
    """Compares what a runner returned inside `stopped_early` with what the case stores step by step."""
    compared = []
    for output, stored in case.outputs.items():
        if all(by_step(case, name) for name in stored):
            comparison = compare_output(case, output, results, at_least=steps)
            compared += [] if comparison is None else [comparison]
    return compared
