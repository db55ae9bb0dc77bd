"""What a diffusers scheduler config says of a model's noise levels, as the class that it names would read it.

The classes differ in what a silent config means and in what they ignore. Euler's family works on sigmas and ends at
sigma 0, whatever `set_alpha_to_one` says; a missing `beta_schedule` is "linear" to most and "scaled_linear" to LCM. How
they step from level to level is not read here: see `samplers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from sfumato.errors import ModelError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["leading", "trailing", "linspace", "lcm"]

REMEDY: Final = (
    "give a model whose scheduler is one of them, or, if its noise levels are Stable Diffusion's, a"
    ' scheduler_config.json with "_class_name": "DDIMScheduler"'
)
_MAX_TIMESTEPS = 100_000


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler class makes of its config.

    Attributes:
        spacing: Where its timesteps lie when the config does not say; "lcm" whatever it says.
        beta_schedule, beta_start, beta_end: Its levels when the config does not say.
        end: The level after the last step: 1 ("clean"), that of timestep 0 ("first"), or as `set_alpha_to_one` ("flag")
            or `final_sigmas_type` ("sigmas") says.
        alpha_to_one: The default of `set_alpha_to_one`.
        clips: The default of `clip_sample`; None: it knows no such field.
    """

    spacing: Spacing = "leading"
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    end: Literal["clean", "first", "flag", "sigmas"] = "clean"
    alpha_to_one: bool = True
    clips: bool | None = None


_DDIM = Scheduler(end="flag", clips=True)
_DDPM = Scheduler(clips=True)
_EULER = Scheduler("linspace", end="sigmas")
_HEUN = Scheduler("linspace", beta_start=0.00085, beta_end=0.012)
_FIRST = Scheduler("linspace", end="first")
_LCM = Scheduler("lcm", "scaled_linear", 0.00085, 0.012, clips=False)

SCHEDULERS: Final[Mapping[str, Scheduler]] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": Scheduler(end="flag", alpha_to_one=False),
    "EulerDiscreteScheduler": _EULER,
    "EulerAncestralDiscreteScheduler": Scheduler("linspace"),
    "LMSDiscreteScheduler": Scheduler("linspace"),
    "HeunDiscreteScheduler": _HEUN,
    "KDPM2DiscreteScheduler": _HEUN,
    "KDPM2AncestralDiscreteScheduler": _HEUN,
    "DPMSolverMultistepScheduler": _EULER,
    "DPMSolverSinglestepScheduler": _EULER,
    "UniPCMultistepScheduler": _EULER,
    "DEISMultistepScheduler": _FIRST,
    "SASolverScheduler": _FIRST,
    "LCMScheduler": _LCM,
    "TCDScheduler": Scheduler("lcm", "scaled_linear", 0.00085, 0.012, end="first", clips=False),
}
"""The classes of diffusers whose levels are those of a discrete variance-preserving diffusion."""

# A config that names no class: ours, or one that was written by hand
_UNNAMED = Scheduler(end="flag", clips=False)


def scheduler_of(name: object) -> Scheduler:
    """What the class of that name means.

    Raises:
        ModelError: It is not known, with the reason where there is one.
    """
    if isinstance(name, str) and name in SCHEDULERS:
        return SCHEDULERS[name]
    known = ", ".join(sorted(SCHEDULERS))
    text = str(name)[:80]
    if "FlowM" in text or text.startswith(("Helios", "LTXEuler", "Piflow")):
        reason = (
            f"the scheduler {text} is of a flow-matching model; the networks of this one need noise levels alpha_bar"
        )
    elif text.startswith(("EDM", "Cosine", "KarrasVe")):
        reason = (
            f"the scheduler {text} is of a model trained on continuous noise levels (EDM), as Playground 2.5 and CosXL"
            " are; such models are not supported"
        )
    else:
        reason = f"the scheduler {text!r} is not known"
    raise ModelError(f"{reason}; known are {known}: {REMEDY}")


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Schedule` that a scheduler config stands for.

    Raises:
        ModelError: The class, a value, or something that the config asks for is not known (named in the message).
    """
    named = config.get("_class_name")
    scheduler = _UNNAMED if named is None else scheduler_of(named)
    _refuse_other_levels(config)
    alphas_cumprod = (1.0 - _betas(config, scheduler)).cumprod(0)
    if config.get("rescale_betas_zero_snr", False):
        alphas_cumprod = zero_terminal_snr(alphas_cumprod)
    spacing = scheduler.spacing
    if spacing != "lcm":
        spacing = _one_of(config, "timestep_spacing", spacing, get_args(Spacing))
    clips = scheduler.clips is not None and bool(config.get("clip_sample", scheduler.clips))
    offset = read_number(config, "steps_offset", 0, low=0, high=len(alphas_cumprod) - 1)
    distilled = read_number(config, "original_inference_steps", 50, low=1, high=len(alphas_cumprod))
    return {
        "alphas_cumprod": alphas_cumprod,
        "prediction_type": _one_of(config, "prediction_type", "epsilon", get_args(PredictionType)),
        "final_alpha_bar": 1.0 if _ends_clean(config, scheduler) else float(alphas_cumprod[0]),
        "spacing": spacing,
        "steps_offset": int(offset),
        "clip_sample_range": read_number(config, "clip_sample_range", 1.0, low=0.0, high=1e6) if clips else None,
        "original_inference_steps": int(distilled),
    }


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shifts and scales sqrt(alpha_bar) so that the last level holds no signal.

    Reference: Lin et al., 2023, https://arxiv.org/abs/2305.08891, Algorithm 1.
    """
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


def _refuse_other_levels(config: Mapping[str, Any]) -> None:
    """Settings under which a known class leaves the discrete levels alpha_bar, or bounds its samples anew."""
    if config.get("use_flow_sigmas"):
        raise ModelError("the scheduler asks for use_flow_sigmas: flow-matching models are not supported")
    if config.get("timestep_type", "discrete") != "discrete":
        raise ModelError(
            f"the scheduler asks for timestep_type {config['timestep_type']!r}: models of continuous noise levels"
            " (EDM) are not supported"
        )
    if config.get("thresholding", False):
        raise ModelError("the scheduler uses dynamic thresholding, which is not supported; set thresholding to false")


def _ends_clean(config: Mapping[str, Any], scheduler: Scheduler) -> bool:
    if scheduler.end == "flag":
        return bool(config.get("set_alpha_to_one", scheduler.alpha_to_one))
    if scheduler.end == "sigmas":
        return bool(config.get("final_sigmas_type", "zero") != "sigma_min")
    return scheduler.end == "clean"


def _betas(config: Mapping[str, Any], scheduler: Scheduler) -> Tensor:
    """Noise added at each training step, (num_train_timesteps,), float64."""
    if config.get("trained_betas") is not None:
        return _trained_betas(config["trained_betas"])
    total = int(read_number(config, "num_train_timesteps", 1000, low=1, high=_MAX_TIMESTEPS))
    kind = config.get("beta_schedule", scheduler.beta_schedule)
    start = read_number(config, "beta_start", scheduler.beta_start, low=0.0, high=1.0)
    end = read_number(config, "beta_end", scheduler.beta_end, low=0.0, high=1.0)
    if kind == "linear":
        return torch.linspace(start, end, total, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, total, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":
        # Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, Eq. 17
        level = torch.cos((torch.arange(total + 1, dtype=torch.float64) / total + 0.008) / 1.008 * torch.pi / 2) ** 2
        return (1.0 - level[1:] / level[:-1]).clamp(max=0.999)
    raise ModelError(f"beta_schedule {kind!r} is not known; known: linear, scaled_linear, squaredcos_cap_v2")


def _trained_betas(values: object) -> Tensor:
    numbers = values if isinstance(values, list | tuple) else []
    good = all(isinstance(beta, int | float) and 0.0 <= beta < 1.0 for beta in numbers)
    if not good or not 1 <= len(numbers) <= _MAX_TIMESTEPS:
        raise ModelError("trained_betas of the scheduler must be a list of numbers in [0, 1)")
    return torch.tensor(numbers, dtype=torch.float64)


def _one_of(config: Mapping[str, Any], name: str, default: str, known: tuple[str, ...]) -> Any:
    value = config.get(name, default)
    if value not in known:
        raise ModelError(f"{name} {value!r} is not one of {', '.join(known)}")
    return value


def read_number(config: Mapping[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    """A number of a scheduler config, a whole one where the default is.

    Raises:
        ModelError: It is none, or outside [low, high].
    """
    value = config.get(name, default)
    whole = not isinstance(default, int) or isinstance(value, int)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not whole:
        raise ModelError(f"{name} of the scheduler must be a {'' if whole else 'whole '}number, got {value!r}")
    if not low <= value <= high:
        raise ModelError(f"{name} of the scheduler must be in [{low:g}, {high:g}], got {value!r}")
    return value
