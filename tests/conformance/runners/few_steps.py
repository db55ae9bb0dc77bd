"""TurboEdit, ReNoise, virtual inversion, ChordEdit and Delta Denoising Score."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.edits.chord_edit import chord_edit
from sfumato.edits.delta_denoising import delta_denoising, edit_friendly_weight
from sfumato.edits.task import EditTask
from sfumato.edits.turbo_edit import turbo_edit
from sfumato.edits.virtual_inversion import virtual_inversion
from sfumato.inversions.renoise import renoise
from sfumato.inversions.result import Inversion
from sfumato.inversions.shifted import shifted_edit_friendly
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import Step
from sfumato.sampling.layout import Branch
from sfumato.sampling.lcm import is_last
from sfumato.sampling.loop import sample
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner
from tests.conformance.stored_sdxl import StoredSDXL


@contextmanager
def ending_clean(model: Any) -> Iterator[None]:
    """Inside the block the last step of the model ends at the clean latents, as a few-step model's does."""
    schedule = model.schedule
    model.schedule = replace(schedule, final_alpha_bar=1.0)
    try:
        yield
    finally:
        model.schedule = schedule


class Kept:
    """An `on_step` hook that keeps the latents of the last branch after each step."""

    def __init__(self) -> None:
        self.latents: list[Tensor] = []

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        self.latents.append(latents[-1])
        return latents

    @property
    def steps(self) -> Tensor:
        """(steps, image, channels, height, width)."""
        return torch.stack(self.latents)


def names_of(case: Case, model: Any) -> list[str]:
    """The prompts of a case, as its model knows them: the source's and the target's first."""
    return list(model.take(case)) if isinstance(model, StoredSDXL) else list(case.prompts)


def image_of(case: Case, times: list[int]) -> Inversion:
    """The image of a case, for edits that start from it; its first draw is the first noise."""
    clean = case.tensors["source_latents"]
    return Inversion("picture", case.tensors["noises"][0].reshape(clean.shape), tuple(times), trajectory=clean[None])


@runner("turbo-edit", "edit")
def turbo(case: Case, model: Any) -> dict[str, Result]:
    told, levels = case.parameters["told"], case.parameters["levels"]
    clean, draws = case.tensors["source_latents"], case.tensors["noises"]
    source, target = names_of(case, model)[:2]
    bounds = [None if norm < 0 else norm / clean[0].numel() ** 0.5 for norm in case.parameters["max_norms"]]
    stride = told[0] - told[1]
    with ending_clean(model):
        inverting = InversionTask(model, clean, model.encode_prompt(source), timesteps=told)
        found = shifted_edit_friendly(
            inverting, noise=draws.reshape(-1, *clean.shape), strength=1.0, shift=(told[0] - levels[0]) / stride
        )
        kept = Kept()
        task = EditTask(model, found, source, [target], on_step=[kept])
        turbo_edit(task, w=case.parameters["w"], bounds=bounds)
    assert found.trajectory is not None
    assert found.noise_maps is not None
    return {"levels_latents": found.trajectory.flip(0), "noise_maps": found.noise_maps, "steps": kept.steps}


@runner("renoise", "inversion", short_inversion=True)
def renoised(case: Case, model: Any) -> dict[str, Result]:
    parameters, clean = case.parameters, case.tensors["source_latents"]
    eta = 1.0 if parameters["stochastic"] else 0.0
    draws = case.tensors["noises"].reshape(-1, *clean.shape) if parameters["stochastic"] else None
    condition = model.encode_prompt(case.prompts[0])
    with ending_clean(model):
        task = InversionTask(model, clean, condition, timesteps=parameters["timesteps"])
        found = renoise(
            task, noise=draws, weights=parameters["weights"], eta=eta, correct_noise=parameters["noise_correction"]
        )
        kept = Kept()
        sample(
            model, found.noise, {"source": Branch(condition)}, timesteps=parameters["timesteps"], eta=eta,
            replay=found, on_step=[kept],
        )  # fmt: skip
    assert found.trajectory is not None
    results: dict[str, Result] = {"trajectory": found.trajectory, "replay": kept.steps}
    return results if found.noise_maps is None else {**results, "corrected_noises": found.noise_maps[:, 0]}


@runner("virtual-inversion", "edit")
def virtual(case: Case, model: Any) -> dict[str, Result]:
    return virtually_edited(case, model)


@runner("virtual-inversion", "edit-with-control")
def virtual_with_control(case: Case, model: Any) -> dict[str, Result]:
    parameters, count = case.parameters, len(case.parameters["timesteps"])
    return virtually_edited(
        case, model, attention_control="replace",
        cross_replace_steps=(0.0, (parameters["cross_replace_until"] - 0.5) / count),
        self_replace_steps=(0.0, parameters["self_replace_until"] / count),
        self_replace_size=int(parameters["max_self_queries"] ** 0.5),
    )  # fmt: skip


def virtually_edited(case: Case, model: Any, **options: Any) -> dict[str, Result]:
    parameters, times = case.parameters, case.parameters["timesteps"]
    task, kept = edit_task(case, model, times)
    start = {"noised": "image", "pure-noise": "noise"}[parameters["start"]]
    virtual_inversion(
        task, noise=case.tensors["noises"], strength=1.0, start=start,
        source_guidance=parameters["guidance_scale_source"], **options,
    )  # fmt: skip
    # the latents after a step are the edit with noise: the denoised ones are what that noise was added to
    steps, denoised = model.schedule.steps(timesteps=times), []
    for step, latents in zip(steps, kept.latents, strict=True):
        if is_last(step):
            denoised.append(latents)
        else:
            noise = case.tensors["noises"][step.index + 1]
            denoised.append((latents - step.level_prev.noise * noise) / step.level_prev.signal)
    return {"denoised": torch.stack(denoised)}


@runner("chord-edit", "edit")
def chord(case: Case, model: Any) -> dict[str, Result]:
    parameters = case.parameters
    task, kept = edit_task(case, model, [999])
    edited = chord_edit(
        task, noise=case.tensors["noises"], t_start=parameters["t_start"], t_delta=parameters["t_delta"],
        t_end=parameters["t_end"], num_edit_steps=parameters["n_steps"], step_size=parameters["step_scale"],
        noise_samples=parameters["noise_samples"], cleanup=parameters["cleanup"],
    )  # fmt: skip
    before = torch.stack([case.tensors["source_latents"], *kept.latents[: parameters["n_steps"] - 1]])
    after = kept.steps[: parameters["n_steps"]]
    return {"fields": (after - before) / parameters["step_scale"], "final_latents": edited.latents[1]}


@runner("delta-denoising", "edit")
def delta(case: Case, model: Any) -> dict[str, Result]:
    parameters, times, clean = case.parameters, case.parameters["timesteps"], case.tensors["source_latents"]
    friendly = "rates" in parameters
    area = clean.shape[-1] * clean.shape[-2]
    rate = 0.0 if friendly else parameters["lr"] * parameters["loss_weight"] / area
    task, kept = edit_task(case, model, times if friendly else [999])
    with ending_clean(model):
        delta_denoising(
            task, noise=case.tensors["noises"], times=None if friendly else times, rate=rate,
            rates="edit-friendly" if friendly else "fixed",
        )  # fmt: skip
        steps = model.schedule.steps(timesteps=times) if friendly else []
    rates = [edit_friendly_weight(step) * step.level.noise / step.level.signal for step in steps]
    sizes = torch.tensor(rates if friendly else [rate] * len(times))
    before = torch.cat([clean[None], kept.steps[:-1]])
    return {"steps": kept.steps, "gradients": (before - kept.steps) / sizes.view(-1, 1, 1, 1, 1)}


def edit_task(case: Case, model: Any, times: list[int]) -> tuple[EditTask, Kept]:
    """The task of a case from its image, and what keeps the edited latents after each step."""
    kept, source, target = Kept(), *names_of(case, model)[:2]
    scales = {name: case.parameters.get(f"guidance_scale_{name}", 1.0) for name in ("source", "target")}
    task = EditTask(
        model, image_of(case, times), source, [target], guidance_scale=scales["target"],
        source_guidance_scale=scales["source"], on_step=[kept],
    )  # fmt: skip
    return task, kept
