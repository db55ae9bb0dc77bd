"""Finds the runner of a (system, kind): the code that computes with sfumato what such a case holds."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.conformance.golden import Case

Result = Tensor | Callable[[], Tensor]
Run = Callable[[Case, Any], Mapping[str, Result]]


@dataclass(frozen=True)
class Runner:
    """What `runner` registers; called as the function itself."""

    run: Run
    short_inversion: bool
    in_part: bool

    def __call__(self, case: Case, model: Any) -> Mapping[str, Result]:
        return self.run(case, model)


_RUNNERS: dict[tuple[str, str], Runner] = {}


def runner(system: str, kind: str, *, short_inversion: bool = False, in_part: bool = False) -> Callable[[Run], Run]:
    """Registers `run(case, model) -> {output name: tensor}` for every case of this system and kind.

    The runner reads prompts, parameters, inputs and random draws from the case, nothing from elsewhere, so that other
    cases of the kind run unchanged. It returns at least each output that the case gives a tolerance. An output that
    takes a run of its own may be a function that makes it: the run is spared where it is not compared.

    `short_inversion`: where `make test` runs the first steps alone (`first_steps.py`), those of the inversion are
    enough: the cases store no other steps, or the runner starts the edit where the stored inversion ends.

    `in_part`: the cases store the ends of several long runs; the runner makes some of them where `is_part()`, as
    `make test` asks, and returns the others' ends as stored.
    """

    def register(run: Run) -> Run:
        if (system, kind) in _RUNNERS:
            modules = _RUNNERS[system, kind].run.__module__, run.__module__
            raise ValueError(f"two runners for {system}, {kind}: {', '.join(modules)}")
        _RUNNERS[system, kind] = Runner(run, short_inversion, in_part)
        return run

    return register


def find_runner(system: str, kind: str) -> Runner | None:
    """The runner of a (system, kind), or None; imports every module under `runners/` first."""
    from tests.conformance import runners

    for module in pkgutil.iter_modules(runners.__path__):
        importlib.import_module(f"{runners.__name__}.{module.name}")
    return _RUNNERS.get((system, kind))
