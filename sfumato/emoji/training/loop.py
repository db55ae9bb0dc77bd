"""The training loop that every stage shares: a budget of minutes, EMA, checkpoints, resuming, a log."""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from sfumato.files import written_whole

console = Console(highlight=False)


@dataclass(frozen=True)
class Settings:
    """What every stage is told.

    Attributes:
        minutes: Training time of the stage; the learning rate falls to zero by its end.
        batch: Samples a step.
        learning_rate: Peak learning rate.
        ema_decay: Decay of the weight average that is shipped.
        folder: Where checkpoints, logs and sheets go.
        device: "cpu" or "cuda".
        seed: Seed of weights and draws.
        save_minutes: Time between checkpoints.
        workers: Threads that share a step, each on one core; 1 on a GPU.
    """

    minutes: float
    batch: int
    learning_rate: float
    ema_decay: float
    folder: Path
    device: str = "cpu"
    seed: int = 0
    save_minutes: float = 8.0
    workers: int = 1


@dataclass
class Worker:
    """One of the threads that share a step: its replica of the model, its share of the batch, its own random draws.

    Attributes:
        index: 0-based; worker 0 holds the model itself, the others replicas whose weights share its memory.
        count: Number of workers.
        model: The network to run.
        batch: Samples of its share.
        random: Source of Python's draws.
        generator: Source of torch's draws, on the training device.
    """

    index: int
    count: int
    model: nn.Module
    batch: int
    random: random.Random
    generator: torch.Generator


def make_workers(model: nn.Module, settings: Settings) -> list[Worker]:
    """Builds the workers of a stage; replicas share the weights of `model`, not the gradients."""
    workers = []
    for index in range(settings.workers):
        replica = model
        if index:
            replica = copy.deepcopy(model)
            for mine, shared in zip(replica.parameters(), model.parameters(), strict=True):
                mine.data = shared.data
        seed = settings.seed * 1000 + index
        generator = torch.Generator(settings.device).manual_seed(seed)
        share = settings.batch // settings.workers
        workers.append(Worker(index, settings.workers, replica, share, random.Random(seed), generator))
    return workers


def train_loop(
    name: str,
    model: nn.Module,
    loss_of_batch: Callable[[Worker], torch.Tensor],
    settings: Settings,
    *,
    on_save: Callable[[nn.Module, int], dict[str, float] | None] | None = None,
    weight_decay: float = 0.01,
) -> nn.Module:
    """Trains until the minutes are used up, and resumes from the folder's checkpoint if there is one.

    With several workers, each thread computes the gradient of its share of the batch on one core: on a processor this
    beats splitting every operation over the cores, by far when something else runs beside.

    Args:
        name: Of the stage; names its files.
        model: Trained in place.
        loss_of_batch: Computes the loss of one worker's share of a batch.
        settings: See `Settings`.
        on_save: Called with the averaged model and the step at each checkpoint and at the end; its figures are logged.
        weight_decay: AdamW's.

    Returns:
        The averaged model, in evaluation mode.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    workers = make_workers(model, settings)
    replicas = [[p for p in worker.model.parameters() if p.requires_grad] for worker in workers]
    parameters = replicas[0]
    averaged = [a for a, p in zip(average.parameters(), model.parameters(), strict=True) if p.requires_grad]
    optimizers = [
        torch.optim.AdamW(
            parameters[worker.index :: worker.count],
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=True,
        )
        for worker in workers
    ]
    step, spent = 0, 0.0
    running: float | None = None
    checkpoint = settings.folder / f"{name}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=settings.device, weights_only=True)
        if len(state["optimizers"]) != len(optimizers):
            raise ValueError(
                f"{checkpoint} was written with --workers {len(state['optimizers'])}, got {len(optimizers)}"
            )
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent = state["step"], state["spent"]
        console.print(f"{name}: resumed at step {step}, {spent / 60:.1f} minutes")
        for worker in workers:  # not the draws of the first steps again
            worker.random.seed(worker.random.random() + step)
            worker.generator.manual_seed(settings.seed * 1000 + worker.index + 7919 * step)

    def save() -> None:
        if settings.workers > 1:
            torch.set_num_threads(settings.workers)  # of this thread; the workers keep one core each
        average_figures = on_save(average, step) if on_save else None
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "spent": spent,
        }
        with written_whole(checkpoint) as part:
            torch.save(state, part)
        log(average_figures or {})

    def log(figures: dict[str, float]) -> None:
        entry = {
            "step": step,
            "samples": step * settings.batch,
            "minutes": round(spent / 60, 2),
            "loss": round(running or 0.0, 5),
            **{key: round(value, 4) for key, value in figures.items()},
        }
        console.print(f"{name}: {entry}")
        with (settings.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def differentiate(worker: Worker) -> float:
        for parameter in replicas[worker.index]:
            parameter.grad = None
        loss = loss_of_batch(worker)
        (loss / worker.count).backward()
        return float(loss.detach())

    @torch.no_grad()
    def gather(
        worker: Worker,
    ) -> float:  # sums this worker's part of the parameters over the replicas; returns its norm
        part = slice(worker.index, None, worker.count)
        gradients = [p.grad for p in parameters[part] if p.grad is not None]
        for other in replicas[1:]:
            torch._foreach_add_(gradients, [p.grad for p in other[part] if p.grad is not None])
        return float(torch.stack(torch._foreach_norm(gradients)).norm())

    @torch.no_grad()
    def update(worker: Worker, scale: float, learning_rate: float, decay: float) -> None:
        part = slice(worker.index, None, worker.count)
        if scale < 1:
            torch._foreach_mul_([p.grad for p in parameters[part] if p.grad is not None], scale)
        for group in optimizers[worker.index].param_groups:
            group["lr"] = learning_rate
        optimizers[worker.index].step()
        torch._foreach_lerp_(list[torch.Tensor](averaged[part]), list[torch.Tensor](parameters[part]), 1 - decay)

    last_save, budget = spent, settings.minutes * 60
    with ThreadPoolExecutor(settings.workers, initializer=_one_core if settings.workers > 1 else None) as threads:
        while spent < budget:
            begin = time.monotonic()
            cosine = 0.5 + 0.5 * math.cos(math.pi * spent / budget)
            learning_rate = settings.learning_rate * min(1.0, (step + 1) / 200) * max(0.01, cosine)
            value = sum(threads.map(differentiate, workers)) / len(workers)
            if not math.isfinite(value):
                raise RuntimeError(f"{name}: the loss became {value} at step {step}; try a lower --learning-rate")
            norm = math.hypot(*threads.map(gather, workers))
            decay = min(settings.ema_decay, (step + 1) / (step + 10))
            fixed = partial(update, scale=1 / max(norm, 1e-6), learning_rate=learning_rate, decay=decay)
            list(threads.map(fixed, workers))
            running = value if running is None else 0.99 * running + 0.01 * value
            step += 1
            spent += time.monotonic() - begin
            if step % 100 == 0:
                log({})
            if spent - last_save > settings.save_minutes * 60:
                last_save = spent
                save()
    save()
    return average


def _one_core() -> None:
    torch.set_num_threads(1)


def memory_format(device: str) -> torch.memory_format:
    """Layout of the UNet and its latents in training: on processors the plain one is a tenth faster (bf16, AVX-512)."""
    return torch.contiguous_format if device == "cpu" else torch.channels_last


def autocast(device: str) -> Any:
    """bf16 autocast on `device`."""
    return torch.autocast(device, torch.bfloat16)
