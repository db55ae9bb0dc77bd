"""MasaCtrl: synthesis from given noises, and edits of an inverted image."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.edits.masactrl import masactrl
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.conformance.first_steps import steps_of_run, stopped_early
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner


@runner("masactrl", "synthesis")
def synthesis(case: Case, model: Model) -> dict[str, Result]:
    noise = case.tensors["initial_latents"]  # one row, shared by the branches, or one a branch
    start = Inversion("drawn", noise if len(noise) == 1 else noise[:, None], _timesteps(case))
    if _in_part(case, "latents_per_step"):
        return {"latents_per_step": _first_controlled(case, model, start)}
    return _edit(case, model, start)


@runner("masactrl", "real", short_inversion=True)
def real(case: Case, model: Model) -> dict[str, Result]:
    condition = model.encode_prompt(case.prompts[0])
    task = InversionTask(model, case.tensors["source_latent"], condition, timesteps=_timesteps(case))
    in_part = _in_part(case, "inversion_latents", "latents_per_step")
    with stopped_early(1, inversions=True) if in_part else nullcontext():
        start = ddim_inversion(task)
    assert start.trajectory is not None
    inverted = start.trajectory[:, 0]
    if in_part:
        stored = case.tensors["inversion_latents"]
        start = replace(start, noise=stored[[-1]], trajectory=None)
        return {
            "inversion_latents": torch.cat([inverted, stored[len(inverted) :]]),
            "latents_per_step": _first_controlled(case, model, start),
        }
    return {
        **_edit(case, model, start),
        "inversion_latents": inverted,
        "final_latents_with_reference_replay": lambda: _run(case, model, start, pin_source=True).latents[:, 0],
    }


def _in_part(case: Case, *stored: str) -> bool:
    """Whether the first steps alone are run, and the case has what a run of one step goes on from."""
    return steps_of_run(case.num_steps) < case.num_steps and set(stored) <= set(case.tensors)


def _first_controlled(case: Case, model: Model, start: Inversion) -> Tensor:
    """Latents of the first step at which the control acts, from the stored ones before it, which stand before them."""
    first, stored = case.parameters["start_step"], case.tensors["latents_per_step"]
    noise = stored[first - 1][:, None] if first else start.noise
    with stopped_early(1):
        latents = _edit(case, model, replace(start, noise=noise, start_index=first))["latents_per_step"]
    assert isinstance(latents, Tensor)
    return torch.cat([stored[:first], latents])


def _timesteps(case: Case) -> tuple[int, ...]:
    return tuple(case.tensors["timesteps"].tolist())


def _run(case: Case, model: Model, start: Inversion, *, on_step: Any = (), **options: Any) -> LatentEdit:
    options = {"layers": case.parameters["layers"], "steps": case.parameters["steps"], "pin_source": False} | options
    scale = case.parameters["guidance_scale"]  # of all branches, whatever the inversion's
    task = EditTask(
        model, start, case.prompts[0], case.prompts[1:], guidance_scale=scale, source_guidance_scale=scale,
        on_step=on_step,
    )  # fmt: skip
    return masactrl(task, **options)


def _edit(case: Case, model: Model, start: Inversion) -> dict[str, Result]:
    per_step: list[Tensor] = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        per_step.append(latents[:, 0])
        return latents

    edited = _run(case, model, start, on_step=[keep])

    def without_control() -> Tensor:
        guidance_scale = case.parameters["guidance_scale"]
        free = sample(  # the targets alone: control leaves the source branch as it is
            model,
            start.noise if start.noise.ndim == 4 else start.noise[1:],
            {prompt: Branch(model.encode_prompt(prompt), guidance_scale=guidance_scale) for prompt in case.prompts[1:]},
            timesteps=start.timesteps,
        )
        return torch.cat([edited.latents[:1, 0], free[:, 0]])

    return {
        "latents_per_step": torch.stack(per_step),
        "final_latents": edited.latents[:, 0],
        "final_latents_without_control": without_control,
    }
