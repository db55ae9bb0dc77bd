"""Edits and inversions of flow models, on the prompts, images and draws that a case stores."""

from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from sfumato.edits import uniedit_flow as uniedit
from sfumato.edits.dnaedit import align, dnaedit
from sfumato.edits.flowalign import flowalign
from sfumato.edits.flowedit import flowedit
from sfumato.edits.rf_edit import sampled_with_values
from sfumato.edits.rf_inversion import rf_inversion as rf_inversion_edit
from sfumato.edits.stable_flow import stable_flow
from sfumato.edits.task import EditTask
from sfumato.inversions.fireflow import fireflow_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.rf_inversion import rf_inversion
from sfumato.inversions.rf_solver import rf_solver_inversion
from sfumato.inversions.uni_inv import uni_inv
from sfumato.sampling.layout import Branch
from sfumato.watch import Watch
from tests.conformance.golden import Case
from tests.conformance.registry import runner
from tests.conformance.runners.flow_model import (
    Kept,
    edit_task,
    grid_of,
    honoured,
    image_of,
    inversion_task,
    steps_of,
    stored_prompts,
)


def path_of(clean: Tensor) -> tuple[Watch, list[Tensor]]:
    """A watch, and the latents of the last branch that a method shows it after each step, the clean ones first."""
    shown = [clean]
    return Watch(preview=lambda index, latents: shown.append(latents[-1]), preview_every=1), shown


@runner("flowedit", "edit")
def run_flowedit(case: Case, model: Any) -> dict[str, Tensor]:
    parameters, count = case.parameters, steps_of(case)
    task = edit_task(case, model, image_of(case, model), parameters["target_guidance_scale"])
    (watch, shown), tail = path_of(case.tensors["source_latents"]), Kept(case.tensors["source_latents"])
    edited = flowedit(
        replace(task, watch=watch, on_step=[tail]), noise=case.tensors["noise"][:, None],
        strength=parameters["n_max"] / count, plain_end=parameters["n_min"] / count, draws=parameters["n_avg"],
        source_guidance=honoured(model, parameters["source_guidance_scale"]),
    )  # fmt: skip
    steps = parameters["n_max"] - parameters["n_min"]
    path = torch.cat([*shown[: 1 + steps], *tail.latents[1:]])
    return {"final_latents": edited.latents[1], "trajectory": path}


@runner("flow-edit-epsilon", "edit")
def run_flowedit_of_noise(case: Case, model: Any) -> dict[str, Tensor]:
    parameters, clean, noises = case.parameters, case.tensors["source_latents"], case.tensors["noises"]
    source, target, _ = case.prompts
    image = Inversion("picture", noises[0, :1], tuple(parameters["timesteps"]), trajectory=clean[None])
    task = EditTask(model, image, source, [target], guidance_scale=parameters["guidance_scale_target"])
    watch, shown = path_of(clean)
    flowedit(
        replace(task, watch=watch), noise=noises.flatten(0, 1)[:, None], strength=1.0,
        draws=parameters["draws_per_step"], source_guidance=parameters["guidance_scale_source"],
    )  # fmt: skip
    levels = [step.level for step in task.steps_from(0)]
    times = [level.noise / (level.signal + level.noise) for level in levels]
    return {"steps": torch.stack(shown[1:]), "times": torch.tensor([*times, 0.0], dtype=torch.float64)}


@runner("flowalign", "edit")
def run_flowalign(case: Case, model: Any) -> dict[str, Tensor]:
    task = edit_task(case, model, image_of(case, model), case.parameters["guidance_scale"])
    watch, shown = path_of(case.tensors["source_latents"])
    edited = flowalign(replace(task, watch=watch), noise=case.tensors["noise"][:, None], hold=case.parameters["zeta"])
    return {"final_latents": edited.latents[1], "trajectory": torch.cat(shown)}


@runner("rf-inversion", "edit")
def run_rf_inversion(case: Case, model: Any) -> dict[str, Tensor]:
    stored_prompts(case, model)
    parameters = case.parameters
    inverted = rf_inversion(
        inversion_task(case, model, ""), noise=case.tensors["noise"], gamma=parameters["gamma"],
        official_grid=parameters["grid"] == "released",
    )  # fmt: skip
    kept = Kept(inverted.noise)
    task = edit_task(case, model, inverted, parameters["guidance_scale"])
    edited = rf_inversion_edit(
        replace(task, on_step=[kept]), eta=parameters["eta"], window=(parameters["start"], parameters["stop"])
    )
    return {
        "inverted_latents": inverted.noise,
        "trajectory": kept.trajectory,
        "final_latents": edited.latents[1],
    }


@runner("rf-solver", "edit")
@runner("fireflow", "edit")
def run_solver(case: Case, model: Any) -> dict[str, Tensor]:
    stored_prompts(case, model)
    parameters = case.parameters
    invert = fireflow_inversion if parameters["solver"] == "fireflow" else rf_solver_inversion
    inverted = invert(inversion_task(case, model, "source"))
    kept = Kept(inverted.noise)
    task = edit_task(case, model, inverted, parameters["target_guidance_scale"])
    single = [site.name for site in model.sites(task.latent_size) if site.name.startswith("single")]
    first, last = parameters["shared_single_blocks"]
    latents = sampled_with_values(
        replace(task, on_step=[kept]), single[first : last + 1], int(parameters["shared_steps"])
    )
    assert inverted.trajectory is not None
    return {
        "inversion_trajectory": inverted.trajectory[:, 0],
        "inverted_latents": inverted.noise,
        "edit_trajectory": kept.trajectory,
        "final_latents": latents[0],
    }


@runner("uniedit-flow", "edit")
def run_uniedit(case: Case, model: Any) -> dict[str, Tensor]:
    stored_prompts(case, model)
    parameters, count = case.parameters, steps_of(case)
    part = parameters["alpha"] * count
    run = (round(part) if parameters["rounding"] == "round" else int(part + 1e-9)) / count
    prompt = "source" if parameters["inversion_prompt"] == "source" else ""
    inverted = uni_inv(inversion_task(case, model, prompt), share=run)
    kept, masks = Kept(inverted.noise), []
    # one value a token where the authors' code sees tokens
    size = case.parameters["size"]
    tokens = case.tensors.shape("masks_trajectory")[1] == size[0] * size[1] // 4

    def where(difference: Tensor, **options: bool) -> Tensor:
        masks.append(uniedit_where(difference, **options))
        return masks[-1]

    uniedit_where = uniedit.where
    task = replace(edit_task(case, model, inverted), on_step=[kept])
    with mock.patch.object(uniedit, "where", where):
        edited = uniedit.uniedit_flow(
            task, strength=run, omega=parameters["omega"], signed=parameters["mask"] == "signed", tokens=tokens
        )
    found = torch.stack([mask[0, 0] for mask in masks])  # (steps, 1, height, width)
    assert inverted.trajectory is not None
    return {
        "inversion_trajectory": inverted.trajectory[:, 0],
        "inverted_latents": inverted.noise,
        "masks_trajectory": found[..., ::2, ::2].flatten(1)[..., None] if tokens else found,
        "edit_trajectory": kept.trajectory,
        "final_latents": edited.latents[1],
    }


@runner("dnaedit", "edit")
def run_dnaedit(case: Case, model: Any) -> dict[str, Tensor]:
    parameters, count = case.parameters, steps_of(case)
    clean, noise, start = case.tensors["source_latents"], case.tensors["noise"], parameters["start"]
    task = edit_task(case, model, image_of(case, model), parameters["target_guidance_scale"])
    steps = task.steps_from(start)
    source = task.guided({"source": Branch(task.source_branch.condition)}, steps)
    with torch.no_grad():
        aligned = align(source, clean, noise, steps, Watch())
    kept = Kept(aligned.trajectory[-1])
    edited = dnaedit(
        replace(task, on_step=[kept]), noise=noise, strength=(count - start) / count, follow=parameters["mvg"]
    )
    return {
        "alignment_trajectory": torch.cat(aligned.trajectory),
        "edit_trajectory": kept.trajectory,
        "final_latents": edited.latents[1],
    }


@runner("vital-layers", "synthesis")
def run_stable_flow(case: Case, model: Any) -> dict[str, Tensor]:
    parameters, noise = case.parameters, case.tensors["noise"]
    kept = Kept(noise)
    task = edit_task(case, model, Inversion("drawn", noise, grid_of(case, model)), parameters["guidance_scale"])
    names = [site.name for site in model.sites(task.latent_size)]
    double = sum(not name.startswith("single") for name in names)
    layers = [*parameters["double_blocks"], *(double + block for block in parameters["single_blocks"])]
    edited = stable_flow(replace(task, on_step=[kept]), layers=layers)
    return {
        "source_latents": edited.latents[0],
        "final_latents": edited.latents[1],
        "trajectory": kept.trajectory,
    }
