"""The training loop that every stage shares: a budget of minutes, EMA, checkpoints, resuming, a log."""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


class Trainee:
    """A model in training: its average, and its parameters and optimizers, shared out among workers.

    Each worker updates every n-th parameter, n being the number of workers.

    Args:
        model: Trained in place.
        settings: See `Settings`.
        weight_decay: AdamW's.

    Attributes:
        model: The same.
        average: The averaged model, in evaluation mode.
        workers: See `Worker`.
    """

    def __init__(self, model: nn.Module, settings: Settings, weight_decay: float) -> None:
        self.model, self.average = model, copy.deepcopy(model).eval().requires_grad_(False)
        self.workers = make_workers(model, settings)
        self._replicas = [[p for p in worker.model.parameters() if p.requires_grad] for worker in self.workers]
        pairs = zip(self.average.parameters(), model.parameters(), strict=True)
        self._averaged = [average for average, parameter in pairs if parameter.requires_grad]
        self._optimizers = [
            torch.optim.AdamW(
                self._replicas[0][worker.index :: worker.count],
                lr=settings.learning_rate,
                betas=(0.9, 0.99),
                weight_decay=weight_decay,
                fused=True,
            )
            for worker in self.workers
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            ValueError: It was written with another number of workers.
        """
        if len(state["optimizers"]) != len(self._optimizers):
            raise ValueError(f"was written with --workers {len(state['optimizers'])}, got {len(self._optimizers)}")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def differentiate(self, worker: Worker, loss_of_batch: Callable[[Worker], torch.Tensor]) -> float:
        """The loss of a worker's share of the batch, and the gradients on its replica."""
        for parameter in self._replicas[worker.index]:
            parameter.grad = None
        loss = loss_of_batch(worker)
        (loss / worker.count).backward()
        return float(loss.detach())

    @torch.no_grad()
    def gather(self, worker: Worker) -> float:
        """Sums a worker's part of the gradients over the replicas; returns the norm of its part."""
        part = slice(worker.index, None, worker.count)
        gradients = [p.grad for p in self._replicas[0][part] if p.grad is not None]
        for other in self._replicas[1:]:
            torch._foreach_add_(gradients, [p.grad for p in other[part] if p.grad is not None])
        return float(torch.stack(torch._foreach_norm(gradients)).norm())

    @torch.no_grad()
    def update(self, worker: Worker, scale: float, learning_rate: float, decay: float) -> None:
        """Steps a worker's part of the parameters, its gradients scaled down by `scale` below 1, and of the average."""
        part, parameters = slice(worker.index, None, worker.count), self._replicas[0]
        if scale < 1:
            torch._foreach_mul_([p.grad for p in parameters[part] if p.grad is not None], scale)
        for group in self._optimizers[worker.index].param_groups:
            group["lr"] = learning_rate
        self._optimizers[worker.index].step()
        torch._foreach_lerp_(list[torch.Tensor](self._averaged[part]), list[torch.Tensor](parameters[part]), 1 - decay)


class Journal:
    """How far a stage has come, on disk: checkpoints and a log.

    Args:
        name: Of the stage; names its files.
        trainee: What is trained.
        settings: See `Settings`.
        on_save: Called with the averaged model and the step at each checkpoint; its figures are logged.

    Attributes:
        step: Steps done.
        spent: Seconds spent on them.
        loss: Running mean; None before the first step.
    """

    def __init__(
        self,
        name: str,
        trainee: Trainee,
        settings: Settings,
        on_save: Callable[[nn.Module, int], dict[str, float] | None] | None,
    ) -> None:
        self.name, self._trainee, self._settings, self._on_save = name, trainee, settings, on_save
        self.step, self.spent = 0, 0.0
        self.loss: float | None = None
        self._checkpoint = settings.folder / f"{name}.pt"

    def resume(self) -> None:
        """Goes on from the folder's checkpoint if there is one.

        Raises:
            ValueError: It was written with another number of workers.
        """
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, map_location=self._settings.device, weights_only=True)
        try:
            self._trainee.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{self._checkpoint} {error}") from None
        self.step, self.spent = state["step"], state["spent"]
        console.print(f"{self.name}: resumed at step {self.step}, {self.spent / 60:.1f} minutes")
        for worker in self._trainee.workers:  # not the draws of the first steps again
            worker.random.seed(worker.random.random() + self.step)
            worker.generator.manual_seed(self._settings.seed * 1000 + worker.index + 7919 * self.step)

    def count(self, loss: float, seconds: float) -> None:
        """Takes a step into account; logs now and then."""
        self.loss = loss if self.loss is None else 0.99 * self.loss + 0.01 * loss
        self.step += 1
        self.spent += seconds
        if self.step % 100 == 0:
            self.log({})

    def save(self) -> None:
        """Writes a checkpoint, whole or not at all."""
        with _cores(self._settings.workers):
            figures = self._on_save(self._trainee.average, self.step) if self._on_save else None
        with written_whole(self._checkpoint) as part:
            torch.save({**self._trainee.state_dict(), "step": self.step, "spent": self.spent}, part)
        self.log(figures or {})

    def log(self, figures: Mapping[str, float]) -> None:
        """Prints a line and adds it to the log."""
        entry = {
            "step": self.step,
            "samples": self.step * self._settings.batch,
            "minutes": round(self.spent / 60, 2),
            "loss": round(self.loss or 0.0, 5),
            **{key: round(value, 4) for key, value in figures.items()},
        }
        console.print(f"{self.name}: {entry}")
        with (self._settings.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


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

    Raises:
        RuntimeError: The loss became infinite or NaN.
        ValueError: The checkpoint was written with another number of workers.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    trainee = Trainee(model, settings, weight_decay)
    workers, journal = trainee.workers, Journal(name, trainee, settings, on_save)
    journal.resume()
    last_save, budget = journal.spent, settings.minutes * 60
    with ThreadPoolExecutor(settings.workers, initializer=_one_core if settings.workers > 1 else None) as threads:
        while journal.spent < budget:
            begin, step = time.monotonic(), journal.step
            cosine = 0.5 + 0.5 * math.cos(math.pi * journal.spent / budget)
            learning_rate = settings.learning_rate * min(1.0, (step + 1) / 200) * max(0.01, cosine)
            losses = threads.map(partial(trainee.differentiate, loss_of_batch=loss_of_batch), workers)
            loss = sum(losses) / len(workers)
            if not math.isfinite(loss):
                raise RuntimeError(f"{name}: the loss became {loss} at step {step}; try a lower --learning-rate")
            norm = math.hypot(*threads.map(trainee.gather, workers))
            decay = min(settings.ema_decay, (step + 1) / (step + 10))
            update = partial(trainee.update, scale=1 / max(norm, 1e-6), learning_rate=learning_rate, decay=decay)
            list(threads.map(update, workers))
            journal.count(loss, time.monotonic() - begin)
            if journal.spent - last_save > settings.save_minutes * 60:
                last_save = journal.spent
                journal.save()
    journal.save()
    return trainee.average


@contextmanager
def _cores(workers: int) -> Iterator[None]:
    """Lets this thread have the cores of several workers inside the block, while they wait."""
    before = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(workers)  # of this thread; the workers keep one core each
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_core() -> None:
    torch.set_num_threads(1)


def has_bf16(device: str) -> bool:
    """Whether `device` is faster in bf16: processors without AVX-512 are slower by far."""
    return device != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")


def memory_format(device: str) -> torch.memory_format:
    """Layout of the UNet and its latents in training: in bf16 on processors the plain one is a tenth faster (AVX-512),
    in float32 channels last by a quarter (AVX2)."""
    return torch.contiguous_format if device == "cpu" and has_bf16(device) else torch.channels_last


def autocast(device: str) -> Any:
    """bf16 autocast on `device`, float32 where bf16 is slow."""
    return torch.autocast(device, torch.bfloat16, enabled=has_bf16(device))
