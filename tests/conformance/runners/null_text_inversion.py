"""Null-text inversion: the pivot, the tuned embeddings, what they give back, and Prompt-to-Prompt from there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.task import EditTask
from sfumato.inversions import null_text
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner
from tests.conformance.runners.control import (
    blend_options,
    control_kind,
    control_outputs,
    mask_outputs,
    pairs,
    recorded_masks,
    step_outputs,
)


@contextmanager
def pivots(case: Case) -> Iterator[list[Tensor]]:
    """Collects the trajectories that null-text inversion starts from; one that was stopped early goes on as stored."""
    found: list[Tensor] = []

    def pivot(task: InversionTask) -> Inversion:
        inversion = ddim_inversion(task)
        assert inversion.trajectory is not None
        found.append(inversion.trajectory[:, 0])
        whole = len(inversion.trajectory) > case.num_steps
        stored = None if whole else case.tensors.get("inversion_latents")
        return inversion if stored is None else replace(inversion, noise=stored[[-1]], trajectory=stored[:, None])

    with patch.object(null_text, "ddim_inversion", pivot):
        yield found


@runner("null-text-inversion", "edit", short_inversion=True)
def edit(case: Case, model: Model) -> dict[str, Result]:
    parameters, prompts = case.parameters, case.prompts
    guidance_scale = parameters["guidance_scale"]
    condition, empty = model.encode_prompt(prompts), model.encode_prompt("")

    task = InversionTask(
        model, case.tensors["source_latent"], condition[[0]], guidance_scale=guidance_scale,
        timesteps=case.tensors["timesteps"].tolist(),
    )  # fmt: skip
    with pivots(case) as inverted:
        inversion = null_text.null_text_inversion(
            task, inner_steps=parameters["num_inner_steps"], early_stop=parameters["early_stop_epsilon"]
        )
    assert inversion.null_embeds is not None
    assert inversion.residuals is not None
    losses = inversion.residuals[: len(inversion.null_embeds), 0]  # of the steps that were tuned

    per_step = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        per_step.append(latents[:, 0])
        return latents

    with recorded_masks() as masks:
        edited = prompt_to_prompt(
            EditTask(model, inversion, prompts[0], prompts[1:], guidance_scale=guidance_scale, on_step=[keep]),
            edit=control_kind(parameters["edit"]),
            cross_replace_steps=pairs(parameters["cross_replace_steps"]),
            self_replace_steps=pairs(parameters["self_replace_steps"]),
            self_replace_size=int(parameters["self_replace_max_tokens"] ** 0.5),
            weights=parameters.get("equalizer"),
            released=True,
            **blend_options(parameters, start=0.2),
        )

    def free(rows: list[int]) -> Tensor:
        branches = {str(row): Branch(condition[[row]], guidance_scale=guidance_scale) for row in rows}
        latents = sample(model, inversion.noise, branches, timesteps=inversion.timesteps, replay=inversion)
        return latents[:, 0]

    reconstruction = cache(lambda: free([0]))
    return {
        "inversion_latents": inverted[0],
        "null_embeds": inversion.null_embeds[:, 0],
        "initial_null_embeds": empty.text.expand(len(losses), -1, -1),
        "inner_losses": losses.nan_to_num(nan=-1.0),
        "inner_iterations": losses.isfinite().sum(dim=1),
        "reconstruction": reconstruction,
        **control_outputs(case, model.text, prompts, parameters["edit"]),
        **step_outputs(case, per_step),
        **mask_outputs(case, masks, len(inversion.timesteps)),
        "final_latents": edited.latents[:, 0],
        "final_latents_without_control": lambda: torch.cat([reconstruction(), free(list(range(1, len(prompts))))]),
    }
