"""Which noise levels a model has, and the defaults of one that was distilled for a few steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sfumato.errors import ModelError
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.files import parse_json
from sfumato.models.folder import Checked, parse_index
from sfumato.models.layout import components, is_flow, part_of
from sfumato.models.rectified_flow import RectifiedFlow, read_flow
from sfumato.models.scheduler_config import SCHEDULERS, scheduler_of

if TYPE_CHECKING:
    from sfumato.models.base import Model

LCM_GUIDANCE = 8.5
"""What latent consistency models that take their guidance as an input are run at (Luo et al., 2023)."""

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"

_DDIM = ("DDIMScheduler", "DDIMParallelScheduler")
_OWN_SAMPLERS = {"LCMScheduler": "lcm", "TCDScheduler": "tcd", "EulerAncestralDiscreteScheduler": "euler-ancestral"}
"""Of few-step models, by their schedulers."""
_FEW_STEPS = re.compile(r"turbo|lightning|hyper-?_?sd|(?<![a-z])(lcm|tcd)(?![a-z])", re.IGNORECASE)
_FEW_STEPS_LORA = re.compile(
    r"lcm.?lora|lora.?lcm|(lightning|hyper|turbo|tcd).*\d.?steps?|turbo.*lora|hyper.?sd.*lora", re.IGNORECASE
)
_CLEAN = re.compile(r"lightning.*(?<![a-z0-9])x0(?![a-z0-9])", re.IGNORECASE)
"""Names of the one-step models of SDXL-Lightning, which predict clean latents; their configurations do not say so."""
_COUNT = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)


def read_scheduler(checked: Checked, family: str) -> dict[str, Any]:
    """The scheduler config of a checked folder, with the class that it is for: the one that the config itself names.

    Args:
        checked: The folder.
        family: Pipeline class whose adapter serves it.

    Raises:
        ModelError: It is missing, or of a class or values that are not known.
    """
    part = checked.parts.get("scheduler")
    file = part_of(checked.folder, "scheduler") / "scheduler_config.json"
    if part is None:
        raise ModelError(f"{checked.folder} names no scheduler, so its noise levels are not known; get the model again")
    _, named = components(parse_index(checked.folder, checked.index))["scheduler"]
    config = parse_json(file, part.configs[file.name])
    config["_class_name"] = config.get("_class_name", named)
    try:
        if is_flow(family):
            check_flow(config["_class_name"])
            read_flow(config, grid="linspace")
        else:
            scheduler_of(named)
            DiscreteVP.from_config(config)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    return config


def build_scheduler(config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler of a config from `read_scheduler`.

    Raises:
        ModelError: diffusers needs another package for it.
    """
    import diffusers

    try:
        return getattr(diffusers, config["_class_name"]).from_config(dict(config))
    except ImportError as error:  # LMS needs scipy
        raise ModelError(f"the scheduler {config['_class_name']} needs another package: {error}".strip()) from error


def check_flow(scheduler: str) -> None:
    """Raises a `ModelError` for a scheduler whose levels are not those of a rectified flow."""
    if scheduler != FLOW_SCHEDULER:
        raise ModelError(f"the scheduler {scheduler} is not for a flow model: its levels are those of {FLOW_SCHEDULER}")


def scheduler_class(pipeline: Any) -> str:
    """The class of a pipeline's scheduler, or the nearest one above it that is known."""
    names = [base.__name__ for base in type(pipeline.scheduler).__mro__]
    return next((name for name in names if name in SCHEDULERS), names[0])


def schedule_of(pipeline: Any) -> DiscreteVP:
    """The noise levels of a diffusers pipeline.

    Raises:
        ModelError: Its scheduler is not known.
    """
    return DiscreteVP.from_config({**pipeline.scheduler.config, "_class_name": scheduler_class(pipeline)})


def suit(model: Model, scheduler: str, *, names: Sequence[str], loras: Sequence[str] = ()) -> None:
    """Sets what suits the model where the user says nothing, and notes what was decided.

    A few-step model is known by its scheduler (LCM, TCD, Euler on trailing timesteps), by a guidance input of its
    network, or by name.

    Args:
        model: Just built.
        scheduler: The class of its own scheduler.
        names: Hub id, folder or file that it came from.
        loras: Names of merged LoRA files.
    """
    if isinstance(model.schedule, RectifiedFlow):
        _suit_flow(model, scheduler, names)
        return
    schedule = model.schedule
    reason = _few_step_scheduler(scheduler, schedule) if isinstance(schedule, DiscreteVP) else None
    if scheduler not in _DDIM:
        edits = " in edits" if reason and scheduler in _OWN_SAMPLERS else ""
        model.notes += (f"the model's own scheduler {scheduler} is replaced by DDIM{edits} at the same noise levels",)
    if model.text.length == 0 or not isinstance(schedule, DiscreteVP):  # no guidance to be distilled
        return
    named = [name for name in names if _FEW_STEPS.search(name)]
    named += [name for name in loras if _FEW_STEPS_LORA.search(name)]
    spacing = schedule.spacing
    if model.takes_guidance:
        reason = reason or "its guidance scale is an input of the network"
        spacing = "lcm" if spacing == "leading" else spacing
    elif reason is None and named and schedule.alphas_cumprod[-1] > 0:
        reason = f"by its name, {named[0]}"
        spacing = "lcm" if re.search("lcm|tcd", named[0], re.IGNORECASE) else "trailing"
    if reason is None:
        return
    if spacing != schedule.spacing:
        model.schedule = schedule = replace(schedule, spacing=spacing, final_alpha_bar=1.0)
    if schedule.prediction_type == "epsilon" and any(_CLEAN.search(name) for name in names):
        model.schedule = schedule = replace(schedule, prediction_type="sample")
        reason += ", which predicts clean latents"
    model.few_steps = True
    model.sampler = _OWN_SAMPLERS.get(scheduler, "lcm" if spacing == "lcm" else model.sampler)
    model.num_inference_steps = _step_count(model, schedule, named)
    model.guidance_scale = LCM_GUIDANCE if model.takes_guidance else 1.0
    steps = f"{model.num_inference_steps} step{'s' if model.num_inference_steps > 1 else ''}"
    guidance = f"guidance {model.guidance_scale:g}{'' if model.takes_guidance else ' (off)'}"
    model.notes += (
        f"a few-step model ({reason}): {steps} and {guidance} by default; it draws by the sampler {model.sampler}",
    )


def _suit_flow(model: Model, scheduler: str, names: Sequence[str]) -> None:
    check_flow(scheduler)
    named = [name for name in names if _FEW_STEPS.search(name)]
    if named and not model.few_steps:
        model.few_steps, model.num_inference_steps = True, 4
        guidance = f"guidance {model.guidance_scale:g}"
        if not model.takes_guidance:
            model.guidance_scale, guidance = 1.0, "guidance 1 (off)"
            model.method_guidance, model.method_options = {}, {}  # of the model that it was distilled from
        model.notes += (f"a few-step model (by its name, {named[0]}): 4 steps and {guidance} by default",)


def _few_step_scheduler(name: str, schedule: DiscreteVP) -> str | None:
    if name in ("LCMScheduler", "TCDScheduler"):
        return name
    distilled = name.startswith("Euler") and schedule.spacing == "trailing"
    # Models that predict velocity, or end at no signal, take trailing timesteps for that reason
    plain = schedule.prediction_type != "v_prediction" and bool(schedule.alphas_cumprod[-1] > 0)
    return f"{name} on trailing timesteps" if distilled and plain else None


def _step_count(model: Model, schedule: DiscreteVP, names: Sequence[str]) -> int:
    counts = [int(found[1]) for name in names if (found := _COUNT.search(name))]
    if counts and 1 <= counts[0] <= 16:
        return counts[0]
    from sfumato.models.sdxl import StableDiffusionXL

    one_step = schedule.spacing == "trailing" and not isinstance(model, StableDiffusionXL)  # SD-Turbo
    return 1 if one_step and not any(re.search("lightning|hyper", name, re.IGNORECASE) for name in names) else 4
