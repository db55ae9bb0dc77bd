"""pix2pix-zero: regularisers, both inversion grids, directions, and edits from given noise."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.record import RecordKey
from sfumato.conditions.directions import Direction, direction_between, mean_condition
from sfumato.edits.pix2pix_zero import pix2pix_zero
from sfumato.edits.task import EditTask
from sfumato.guidance.attention_maps import Pull
from sfumato.inversions.regularised_ddim import Move, regularised_ddim_inversion, regularised_walk, released_moves
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.inversions.white_noise import auto_correlation, gaussian_divergence, regularised
from sfumato.models.base import Condition, Model
from tests.conformance.golden import Case
from tests.conformance.registry import Result, runner

SYSTEM = "pix2pix-zero"


@runner(SYSTEM, "noise-regularisation")
def noise_regularisation(case: Case, model: Model | None) -> dict[str, Tensor]:
    noise, rolls, parameters = case.tensors["noise"], case.tensors["rolls"], case.parameters
    weights = parameters["lambda_ac"], parameters["lambda_kl"]
    leaf = noise.clone().requires_grad_()
    correlation, divergence = auto_correlation(leaf, rolls[0, 0]), gaussian_divergence(leaf)
    pooled, outputs = noise, {}
    for _ in range(rolls.shape[-1] - 1):
        pooled = F.avg_pool2d(pooled, 2)
        outputs[f"pyramid_{pooled.shape[-1]}"] = pooled
    return outputs | {
        "ac_loss": correlation.sum(),
        "ac_loss_per_channel": correlation.sum(dim=(0, 2)),
        "ac_loss_per_level": correlation.sum(dim=(0, 1)),
        "ac_grad": torch.autograd.grad(correlation.sum(), leaf)[0],
        "kl_loss": divergence.sum(),
        "kl_grad": torch.autograd.grad(divergence.sum(), leaf)[0],
        "ac_stage": regularised(noise, rolls[:1], weights[0], 0.0),
        "kl_stage": regularised(noise, rolls, 0.0, weights[1]),
        "regularised": regularised(noise, rolls, *weights),
    }


@runner(SYSTEM, "regularised-inversion", short_inversion=True)
def regularised_inversion(case: Case, model: Model) -> dict[str, Result]:
    grid = model.schedule.timesteps(case.parameters["num_inversion_steps"])
    moves = released_moves(model.schedule, grid)
    assert [move.time for move in moves] == case.parameters["timesteps"]
    walk = _walk(case, model, moves)
    clean, condition = case.tensors["x_0"], model.encode_prompt(case.prompts["source"])
    with torch.no_grad():
        first = model.predict_noise(clean, moves[0].time, condition, level=moves[0].level)
    weights = case.parameters["lambda_ac"], case.parameters["lambda_kl"]
    return walk | {
        "noise_first": first,
        "noise_first_regularised": regularised(first, case.tensors["rolls"][0], *weights),
    }


@runner(SYSTEM, "regularised-inversion-full-grid", short_inversion=True)
def regularised_inversion_full_grid(case: Case, model: Model) -> dict[str, Result]:
    steps = model.schedule.steps(case.parameters["num_inversion_steps"])
    walk = _walk(case, model, [Move(step.time, step.level_prev, step.level) for step in reversed(steps)])
    inverted = _inverted(case, model, case.parameters, grid="full")
    assert inverted.trajectory is not None
    return walk | {"x_inv": inverted.noise, "trajectory": inverted.trajectory[1:, 0]}


@runner(SYSTEM, "edit-direction")
def edit_direction(case: Case, model: Model) -> dict[str, Tensor]:
    banks = case.prompts["source_sentences"], case.prompts["target_sentences"]
    return {
        "source_mean": mean_condition(model, banks[0]).text,
        "target_mean": mean_condition(model, banks[1]).text,
        "direction": direction_between(model, *banks).embeds,
    }


@runner(SYSTEM, "edit-real")
def edit_real(case: Case, model: Model) -> dict[str, Result]:
    start = _inverted(case, model, case.parameters["inversion"], grid="released")
    return _edit(case, model, start) | {"x_inv": start.noise}


@runner(SYSTEM, "edit-synthetic")
@runner(SYSTEM, "edit-without-guidance")
def edit_drawn(case: Case, model: Model) -> dict[str, Result]:
    return _edit(case, model, Inversion("drawn", case.tensors["x_T"], tuple(case.parameters["timesteps"])))


def _inverted(case: Case, model: Model, parameters: dict, *, grid: str) -> Inversion:
    return regularised_ddim_inversion(
        InversionTask(
            model,
            case.tensors["x_0"],
            model.encode_prompt(case.prompts["source"]),
            num_inference_steps=parameters["num_inversion_steps"],
        ),
        rolls=case.tensors["rolls"],
        correlation_weight=parameters["lambda_ac"],
        gaussian_weight=parameters["lambda_kl"],
        grid=grid,
    )


def _walk(case: Case, model: Model, moves: list[Move]) -> dict[str, Result]:
    clean, rolls = case.tensors["x_0"], case.tensors["rolls"]
    condition = model.encode_prompt(case.prompts["source"])
    weights = case.parameters["lambda_ac"], case.parameters["lambda_kl"]

    @torch.no_grad()
    def walk(rolls: Tensor) -> Tensor:
        return regularised_walk(model, clean, condition, moves, rolls, *weights)

    trajectory = walk(rolls)
    return {
        "x_inv": trajectory[-1],
        "trajectory": trajectory[1:, 0],
        "x_inv_unregularised": lambda: walk(rolls[:, :0])[-1],
    }


def _edit(case: Case, model: Model, start: Inversion) -> dict[str, Result]:
    prompts, parameters, per_step, pulls = case.prompts, case.parameters, [], []
    negative = prompts.get("negative", "")
    direction = Direction(Condition(case.tensors["direction"]), model.text_fingerprint, "", "", "given")
    mid = next(site for site in model.sites(start.noise.shape[-2:]) if (site.kind, site.stage) == ("cross", "mid"))
    maps: dict[str, Tensor] = {}

    scale = parameters["guidance_scale"]  # of both branches, whatever the inversion's

    def run(amount: float, *, on_step: Any = (), observe: Any = None) -> Tensor:
        task = EditTask(
            model, start, prompts["source"], [prompts["source"]], negative, scale, scale, on_step=on_step
        )  # fmt: skip
        return pix2pix_zero(
            task, direction=direction, attention_guidance=amount, update="released", observe=observe
        ).latents[:, 0]

    def keep(latents: Tensor, step: object) -> Tensor:
        per_step.append(latents[:, 0])
        return latents

    def watch(pull: Pull) -> None:
        pulls.append(pull)
        if len(pulls) == 1:
            halves = ("uncond", "cond")[-len(pull.gradient) :]
            for name, branch in (("reference", "source"), ("edit", "target")):
                found = [pull.maps.get(pull.step.index, mid.name, RecordKey(half, branch)) for half in halves]
                maps[f"{name}_map_first"] = torch.cat([rows.flatten(0, 1) for rows in found])

    final = run(parameters["cross_attention_guidance_amount"], on_step=[keep], observe=watch)
    trajectory = torch.stack(per_step)  # (step, branch, image, ...)
    return maps | {
        "reconstruction": final[:1],
        "edited": final[1:],
        "edited_unguided": lambda: run(0.0)[1:],
        "reference_trajectory": trajectory[:, 0],
        "edit_trajectory": trajectory[:, 1],
        "map_loss": torch.stack([pull.loss[0, 0] for pull in pulls]),
        "latent_grad_first": pulls[0].gradient[:, 0, 0],
        "latent_grad_last": pulls[-1].gradient[:, 0, 0],
    }
