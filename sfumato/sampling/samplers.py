"""Samplers by name: which stepper each one is.

In levels (signal, noise), several that diffusers keeps apart are one rule: Euler on sigmas is DDIM, and Euler's
ancestral form is DDIM at eta 1. As there, they end at clean latents, where DDIM may end at the level of timestep 0, as
Stable Diffusion's does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Level, Prediction, Schedule, Step
from sfumato.registry import unknown
from sfumato.sampling.ddim import DDIM
from sfumato.sampling.dpm_solver import DPMSolverPP
from sfumato.sampling.lcm import LCM, is_last
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
_END_CLEAN = ("ddpm", "euler", "euler-ancestral", "dpm-solver++")
"""Whatever level a model's schedule ends at."""


@dataclass(frozen=True)
class EndingClean:
    """Another stepper, whose last step goes to the level without noise.

    Attributes:
        stepper: It takes all steps.
    """

    stepper: Stepper[Any]

    def init(self, latents: Tensor, first: Step) -> Any:
        return self.stepper.init(latents, first)

    def stochastic(self, step: Step) -> bool:
        return self.stepper.stochastic(_ending_clean(step))

    def step(
        self, latents: Tensor, prediction: Prediction, step: Step, state: Any, z: Tensor | None
    ) -> tuple[Tensor, Any]:
        return self.stepper.step(latents, prediction, _ending_clean(step), state, z)


def _ending_clean(step: Step) -> Step:
    return replace(step, level_prev=Level(1.0, 0.0)) if is_last(step) else step


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
        stepper = SAMPLERS[name](schedule)
        return EndingClean(stepper) if name in _END_CLEAN and schedule.level(-1).noise > 0.0 else stepper
    if name != DEFAULT:
        raise UsageError(f"eta={eta:g} is for the sampler ddim, not {name}: leave one of them out")
    return DDIM(eta)
