"""Prompt-to-Prompt: token alignment, and edits sampled from a given noise."""

from typing import Any

import torch
from torch import Tensor

from sfumato.conditions import align
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.task import EditTask
from sfumato.inversions.result import Inversion
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


@runner("prompt-to-prompt", "aligner")
def aligner(case: Case, model: Model) -> dict[str, Tensor]:
    text, outputs = model.text, {}
    for index, pair in enumerate(case.prompts):
        mapper, alphas = align.refine_mapper(text, pair["source"], pair["target"], released=True)
        outputs[f"refine_mapper_{index:02d}"], outputs[f"refine_alphas_{index:02d}"] = mapper, alphas
        if pair["replace"]:
            swap = align.replace_mapper(text, pair["source"], pair["target"], released=True)
            outputs[f"replace_mapper_{index:02d}"] = swap
        for side, words in pair.get("word_positions", {}).items():
            for word, positions in words.items():
                assert align.token_indices(text, pair[side], word, released=True) == positions, (pair[side], word)
    for index, asked in enumerate(case.parameters["schedules"]):
        outputs[f"schedule_{index:02d}"] = align.replace_schedule(
            text, asked["prompts"][1:], asked["num_steps"], pairs(asked["cross_replace_steps"]), released=True
        )
    for index, asked in enumerate(case.parameters["equalizers"]):
        weights = dict(zip(asked["words"], asked["values"], strict=True))
        outputs[f"equalizer_{index:02d}"] = align.equalizer(text, [asked["prompt"]], weights, released=True)[0]
    return outputs


@runner("prompt-to-prompt", "edit")
def edit(case: Case, model: Model) -> dict[str, Result]:
    parameters, prompts = case.parameters, case.prompts
    noise = case.tensors["initial_latent"]
    timesteps = tuple(case.tensors["timesteps"].tolist())
    per_step = []

    def keep(latents: Tensor, step: Any) -> Tensor:
        per_step.append(latents[:, 0])
        return latents

    start, scale = Inversion("given", noise, timesteps), parameters["guidance_scale"]
    with recorded_masks() as masks:
        edited = prompt_to_prompt(
            EditTask(model, start, prompts[0], prompts[1:], guidance_scale=scale, on_step=[keep]),
            edit=control_kind(parameters["edit"]),
            cross_replace_steps=pairs(parameters["cross_replace_steps"]),
            self_replace_steps=pairs(parameters["self_replace_steps"]),
            weights=parameters.get("equalizer"),
            released=True,
            **blend_options(parameters, start=0.0),
        )

    def without_control() -> Tensor:
        condition = model.encode_prompt(prompts)
        targets = {name: Branch(condition[[row]], guidance_scale=scale) for row, name in _numbered(prompts)[1:]}
        free = sample(model, noise, targets, timesteps=timesteps)  # control leaves the source branch as it is
        return torch.cat([edited.latents[:1, 0], free[:, 0]])

    assert edited.maps is not None
    return {
        **control_outputs(case, model.text, prompts, parameters["edit"]),
        **step_outputs(case, per_step),
        **mask_outputs(case, masks, len(timesteps)),
        "final_latents": edited.latents[:, 0],
        "average_cross_attention": edited.maps[:, 0],
        "final_latents_without_control": without_control,
    }


def _numbered(prompts: list[str]) -> list[tuple[int, str]]:
    """Rows and branch names; equal prompts get names of their own."""
    return [(row, f"{row}: {prompt}") for row, prompt in enumerate(prompts)]
