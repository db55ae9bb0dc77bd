"""Finds the runner of a (system, kind): the code that computes with sfumato what such a case holds."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tests.conformance.golden import Case

Result = Tensor | Callable[[], Tensor]
Runner = Callable[[Case, Any], Mapping[str, Result]]

_RUNNERS: dict[tuple[str, str], Runner] = {}


def runner(system: str, kind: str) -> Callable[[Runner], Runner]:
    """Registers `run(case, model) -> {output name: tensor}` for every case of this system and kind.

    The runner reads prompts, parameters, inputs and random draws from the case, nothing from elsewhere, so that other
    cases of the kind run unchanged. It returns at least each output that the case gives a tolerance. An output that
    takes a run of its own may be a function that makes it: the run is spared where it is not compared.
    """

    def register(run: Runner) -> Runner:
        if (system, kind) in _RUNNERS:
            raise ValueError(f"two runners for {system}, {kind}: {_RUNNERS[system, kind].__module__}, {run.__module__}")
        _RUNNERS[system, kind] = run
        return run

    return register


def find_runner(system: str, kind: str) -> Runner | None:
    """The runner of a (system, kind), or None; imports every module under `runners/` first."""
    from tests.conformance import runners

    for module in pkgutil.iter_modules(runners.__path__):
        importlib.import_module(f"{runners.__name__}.{module.name}")
    return _RUNNERS.get((system, kind))
