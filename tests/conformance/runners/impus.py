"""IMPUS: the training objectives and their updates, inversion, interpolation, corrected sampling, path diversity."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from sfumato.adaptation.fine_tune import fine_tune
from sfumato.adaptation.lora import Lora, adapted
from sfumato.adaptation.textual_inversion import textual_inversion
from sfumato.adaptation.training import Denoising, Draws, leaves
from sfumato.conditions.mixing import mixed_condition
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Condition, Model
from sfumato.morphs import rppd as rppd_of_path
from sfumato.morphs.impus import Adapted
from sfumato.morphs.slerp import slerp
from tests.conformance.first_steps import is_part
from tests.conformance.golden import Case
from tests.conformance.registry import runner


def given(timesteps: Any, noise: Tensor) -> Draws:
    """Stored draws; timesteps are (iteration,) of one image or (iteration, image), the noises in order of use."""
    steps = torch.as_tensor(timesteps)
    steps = steps.view(len(steps), -1, 1)  # (iteration, image, draw)
    return Draws(timesteps=steps, noise=noise.view(*steps.shape, *noise.shape[-3:]))


def lora(case: Case, prefix: str) -> Lora:
    names = [name for name in case.tensors if name.startswith(f"{prefix}.")]
    return Lora.from_tensors({name.removeprefix(f"{prefix}."): case.tensors[name] for name in names})


def one_prompt(prompts: Any) -> str:
    prompt = prompts["prompt"]
    return str(prompt if isinstance(prompt, str) else prompt[0])


@runner("impus", "textual-inversion-objective")
def textual_inversion_objective(case: Case, model: Model) -> dict[str, Tensor]:
    parameters = leaves({"embeds": case.tensors["embedding"]}, model)
    embeds = parameters["embeds"]
    condition = model.encode_prompt(one_prompt(case.prompts))
    objective = Denoising(model, case.tensors["latents"], given(case.parameters["timesteps"], case.tensors["noise"]))
    losses, gradients = [], []
    for iteration in range(len(case.parameters["timesteps"])):
        embeds.grad = None
        losses.append(objective.backward(iteration, lambda images: condition.with_text(embeds[images])))
        assert embeds.grad is not None
        gradients.append(embeds.grad)
    return {"loss": torch.cat(losses), "gradient": torch.cat(gradients)}


@runner("impus", "textual-inversion")
def learned_embedding(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, start = case.parameters, model.encode_prompt(one_prompt(case.prompts))
    after: list[Tensor] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        after.append(optimizer.param_groups[0]["params"][0].detach().clone())

    handle = register_optimizer_step_post_hook(note)
    try:
        learned = textual_inversion(
            model,
            case.tensors["latents"],
            start,
            iterations=parameters["iterations"],
            learning_rate=parameters["learning_rate"],
            draws=given(parameters["timesteps"], case.tensors["noise"]),
        )
    finally:
        handle.remove()
    assert torch.equal(after[-1], learned.condition.text)
    return {"loss": learned.losses[:, 0], "update": torch.cat(after) - start.text}


@runner("impus", "lora-objective")
def lora_objective(case: Case, model: Model) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    latents, noise = case.tensors["latents"], case.tensors["noise"]
    empty = model.encode_prompt(case.prompts["unconditional prompt"])
    told = {"cond": Condition(case.tensors["embedding"]), "uncond": empty.expand(len(latents))}
    for part, half in enumerate(("cond", "uncond")):
        parameters = leaves(lora(case, f"{half}_lora").tensors(), model)
        own = noise[part * len(latents) : (part + 1) * len(latents)]
        objective = Denoising(model, latents, given([case.parameters["timesteps"][half]], own))
        condition = told[half]
        with adapted(model, Lora.from_tensors(parameters)):
            results[f"{half}_loss"] = objective.backward(0, condition.__getitem__)
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            results[f"{half}_gradient.{name}"] = parameter.grad
    return results


@runner("impus", "lora-training")
def lora_training(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, start = case.parameters, lora(case, "init")
    tuned = fine_tune(
        model,
        case.tensors["latents"],
        Condition(case.tensors["embedding"]),
        [start],
        iterations=parameters["iterations"],
        learning_rate=parameters["learning_rate"],
        weight_decay=parameters["weight_decay"],
        draws=given(parameters["timesteps"], case.tensors["noise"]),
    )
    before, after = start.tensors(), tuned.lora.tensors()
    return {"loss": tuned.losses, **{f"update.{name}": after[name] - before[name] for name in before}}


@runner("impus", "inversion")
def inversion(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, timesteps = case.parameters, case.parameters.get("timesteps")
    found = ddim_inversion(
        InversionTask(
            model,
            case.tensors["latents"],
            Condition(case.tensors["embedding"]),
            num_inference_steps=parameters["num_inversion_steps"],
            timesteps=None if timesteps is None else sorted(timesteps, reverse=True),
        ),
        inversion_guidance_scale=parameters.get("guidance_scale", 1.0),
    )
    return {"noise": found.noise, "variance": found.noise.flatten(1).var(dim=1)}


@runner("impus", "interpolation")
def interpolation(case: Case, model: Model) -> dict[str, Tensor]:
    weights, tensors = case.parameters["alphas"], case.tensors
    plan = plan_of(case, Condition(torch.cat([tensors["embedding_1"], tensors["embedding_2"]])), model, 1)
    return {
        "noise": torch.cat([slerp(*plan.noise.split(1), weight) for weight in weights]),
        "embedding": mixed_condition(plan.condition, weights).text,
        "guidance_scale": torch.tensor([plan.guidance_at(weight) for weight in weights]),
    }


@runner("impus", "sampling", in_part=True)
def sampling(case: Case, model: Model) -> dict[str, Tensor]:
    parameters = case.parameters
    cond, uncond = lora(case, "cond_lora"), lora(case, "uncond_lora")
    plan = plan_of(case, Condition(case.tensors["embedding"]), model, parameters["num_inference_steps"], cond, uncond)
    weights, result = parameters["alphas"], case.tensors["result"].clone()
    drawn = [len(weights) // 2] if is_part() else list(range(len(weights)))
    result[drawn] = plan.draw(model, [weights[k] for k in drawn])

    first = model.schedule.steps(parameters["num_inference_steps"])[0]
    assert first.time == parameters.get("timesteps", [first.time])[0]
    predictions = []
    for weight in parameters["alphas"]:
        noise = slerp(*plan.noise.split(1), weight)
        for adapter, told in ((uncond, plan.negative), (cond, mixed_condition(plan.condition, [weight]))):
            with torch.no_grad(), adapted(model, adapter):
                predictions.append(model.predict(noise, first.time, told))
    together = torch.cat(predictions).unflatten(0, (-1, 2))  # (weight, half, channels, height, width)
    return {"result": result, "first_prediction": together}


@contextmanager
def few_frames_of(stored: Tensor) -> Iterator[None]:
    """Inside the block the first two frames of each batch on a path are drawn, the others taken as stored."""
    draw, left = rppd_of_path._frames, iter(stored.split(1))

    def frames(
        model: Model, noise: Tensor, condition: Condition, negative: Condition | None, plan: Any, *others: Any
    ) -> Tensor:
        kept = [next(left) for _ in plan]
        return torch.cat([draw(model, noise, condition, negative, plan[:2], *others), *kept[2:]])

    with patch.object(rppd_of_path, "_frames", frames):
        yield


@runner("impus", "rppd", in_part=True)
def rppd(case: Case, model: Model) -> dict[str, Tensor]:
    parameters, tensors = case.parameters, case.tensors

    class MeanSquare:
        name = "mean squared difference"

        def __call__(self, first: Tensor, second: Tensor) -> Tensor:
            return (first - second).square().flatten(1).mean(dim=1)

    stored = torch.cat([tensors[name] for name in ("reconstruction_1", "reconstruction_2", "path")])
    with few_frames_of(stored) if is_part() else nullcontext():
        found = rppd_of_path.path_diversity(
            model,
            torch.cat([tensors["noise_1"], tensors["noise_2"]]),
            Condition(tensors["embedding"]),
            MeanSquare(),
            negative=model.encode_prompt(case.prompts.get("unconditional prompt", "")),
            guidance_scale=parameters["max_scale"],
            end_guidance_scale=parameters["min_scale"],
            num_inference_steps=parameters["num_inference_steps"],
        )
    return {
        "reconstruction_1": found.reconstructions[:1],
        "reconstruction_2": found.reconstructions[1:],
        "path": found.path,
        "distances": found.distances,
        "direct_distance": torch.tensor(found.direct_distance),
        "rppd": torch.tensor(found.rppd()),
        "rppd_clean": torch.tensor(found.rppd("corrected")),
        "rank": torch.tensor(found.rank()),
        "variance": torch.tensor(found.variances),
    }


def plan_of(
    case: Case,
    condition: Condition,
    model: Model,
    num_inference_steps: int,
    cond: Lora | None = None,
    uncond: Lora | None = None,
) -> Adapted:
    """What the case's frames are drawn from."""
    return Adapted(
        noise=torch.cat([case.tensors["noise_1"], case.tensors["noise_2"]]),
        condition=condition,
        negative=model.encode_prompt(case.prompts.get("unconditional prompt", "")),
        cond=cond,
        uncond=uncond,
        guidance_scale=case.parameters["max_scale"],
        end_guidance_scale=case.parameters["min_scale"],
        num_inference_steps=num_inference_steps,
    )
