"""Samplers by name: which stepper each one is.

In levels (signal, noise), several that diffusers keeps apart are one rule: Euler on sigmas is DDIM, and Euler's
ancestral form is DDIM at eta 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sfumato.errors import UsageError
from sfumato.models.schedules import Schedule
from sfumato.registry import unknown
from sfumato.sampling.ddim import DDIM
from sfumato.sampling.dpm_solver import DPMSolverPP
from sfumato.sampling.lcm import LCM
from sfumato.sampling.stepper import Stepper
from sfumato.sampling.tcd import TCD

SAMPLERS: Mapping[str, Callable[[Schedule], Stepper[Any]]] = {
    "ddim": lambda schedule: DDIM(),
    "ddpm": lambda schedule: DDIM(eta=1.0),
    "euler": lambda schedule: DDIM(),
    "euler-ancestral": lambda schedule: DDIM(eta=1.0),
    "dpm-solver++": lambda schedule: DPMSolverPP(),
    "lcm": lambda schedule: LCM(),
    "tcd": TCD,
}
DEFAULT = "ddim"
_OF_FLOWS = ("ddim", "euler", "dpm-solver++")


def stepper_of(name: str, schedule: Schedule, *, eta: float = 0.0) -> Stepper[Any]:
    """The stepper of a sampler.

    Args:
        name: One of `SAMPLERS`.
        schedule: Of the model.
        eta: Of DDIM, which alone takes one, in [0, 1].

    Raises:
        UsageError: The name is unknown, or not for rectified flows; or eta is given with another sampler.
    """
    if name not in SAMPLERS:
        raise UsageError(unknown("sampler", name, list(SAMPLERS)))
    if schedule.target == "flow" and name not in _OF_FLOWS:
        raise UsageError(f"the sampler {name} is not for rectified flows: take one of {', '.join(_OF_FLOWS)}")
    if eta == 0.0:
        return SAMPLERS[name](schedule)
    if name != DEFAULT:
        raise UsageError(f"eta={eta:g} is for the sampler ddim, not {name}: leave one of them out")
    return DDIM(eta)
