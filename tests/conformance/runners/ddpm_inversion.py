"""Edit-friendly DDPM: the inversion, the reconstruction, and edits alone and with Prompt-to-Prompt."""

from collections.abc import Callable
from functools import cache, partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from sfumato.edits.edit_friendly import edit_friendly
from sfumato.edits.task import EditTask
from sfumato.inversions.noise_maps import edit_friendly_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.conformance.first_steps import steps_of_run
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner
from tests.conformance.runners.control import BY_STEP, control_kind, control_outputs, pairs, step_outputs


@runner("ddpm-inversion", "edit")
def edit(case: Case, model: Model) -> dict[str, Result]:
    found = invert(case, model)
    latents, by_step = edited(case, model, found, "none")
    return {**inverted(case, model, found), **by_step, "final_latents": lambda: latents()[1]}


@runner("ddpm-inversion", "edit-with-prompt-to-prompt")
def edit_with_prompt_to_prompt(case: Case, model: Model) -> dict[str, Result]:
    found = invert(case, model)
    parameters = case.parameters
    latents, by_step = edited(
        case, model, found, control_kind(parameters["edit"]),
        cross_replace_steps=pairs(parameters["cross_replace_steps"]),
        self_replace_steps=pairs(parameters["self_replace_steps"]),
    )  # fmt: skip
    control = control_outputs(case, model.text, case.prompts, parameters["edit"])
    return {**control, **inverted(case, model, found), **by_step, "final_latents": lambda: latents()[:, 0]}


def invert(case: Case, model: Model) -> Inversion:
    """The levels are drawn from the image, each by itself; so a run of the first steps encodes the least noisy ones."""
    draws = case.tensors["noise"].flip(0)[:, None]
    encoded = min(steps_of_run(len(draws)) + 1, len(draws))  # one more, as the last map is dropped
    return edit_friendly_inversion(
        InversionTask(
            model,
            case.tensors["source_latent"],
            model.encode_prompt(case.prompts[0]),
            guidance_scale=case.parameters["cfg_source"],
            timesteps=case.tensors["timesteps"].tolist(),
        ),
        noise=draws[len(draws) - encoded :],
        strength=encoded / len(draws),
        eta=case.parameters["eta"],
        released_eta=True,
        drop_last_map=True,
    )


def inverted(case: Case, model: Model, found: Inversion) -> dict[str, Result]:
    assert found.trajectory is not None
    assert found.noise_maps is not None
    maps = found.noise_maps[found.start_index :, 0]

    def back() -> Tensor:
        branch = Branch(model.encode_prompt(case.prompts[0]), guidance_scale=found.guidance_scale)
        latents = sample(
            model, found.noise, {"source": branch}, timesteps=found.timesteps, eta=found.eta, replay=found
        )  # fmt: skip
        return latents[0]

    return {
        "xts": found.trajectory[:, 0],
        "zs": maps.flip(0) / sqrt(case.parameters["eta"]),  # theirs are scaled, see the inversion
        "reconstruction": back,
    }


def edited(
    case: Case, model: Model, found: Inversion, control: Any, **options: Any
) -> tuple[Callable[[], Tensor], dict[str, Result]]:
    """Latents of all branches, (branch, image, channels, height, width); those after each step by the cases' names.

    All are functions: one run, made when the first of them is asked for.
    """

    @cache
    def run() -> tuple[Tensor, dict[str, Tensor]]:
        per_step: list[Tensor] = []

        def keep(latents: Tensor, step: Any) -> Tensor:
            per_step.append(latents[:, 0])
            return latents

        scale, skip = case.parameters["cfg_target"], case.parameters["skip"]
        task = EditTask(model, found, case.prompts[0], case.prompts[1:], guidance_scale=scale, on_step=[keep])
        result = edit_friendly(task, skip_steps=skip, attention_control=control, released=True, **options)
        return torch.as_tensor(result.latents), step_outputs(case, per_step)

    def after_each_step(name: str) -> Tensor:
        return run()[1][name]

    return lambda: run()[0], {name: partial(after_each_step, name) for name in BY_STEP}
