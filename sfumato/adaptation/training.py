"""Fitting a few tensors to images through a frozen network: the denoising loss, its draws, a loop that resumes.

What is fitted is textual inversion's or an adapter's business; here a gradient is a gradient. An interrupted run leaves
a checkpoint from which it comes to the same numbers as an uninterrupted one: every iteration draws from a generator of
its own, and the optimiser's moments are kept.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.adaptation.store import Slot
from sfumato.errors import SamplingError, UsageError
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Prediction, Schedule, add_noise, join
from sfumato.watch import Watch

SECONDS_BETWEEN_SAVES = 60.0
HALF_PRECISION_SCALE = 1024.0  # keeps small gradients of a half-precision network from vanishing


@dataclass(frozen=True)
class Draws:
    """The random timesteps and noises of a training run: given, or drawn iteration by iteration.

    Drawn on the CPU, so that a seed means the same on every device: of each iteration first all timesteps, (image,
    draw), uniform over the schedule, then all noises, (image, draw, channels, height, width). Several draws of an
    iteration are stratified: each has its own part of the schedule, so together they cover it; every t stays equally
    likely.

    Attributes:
        seed: Of what is drawn; iteration k has a generator seeded with `seed + k`.
        count: Draws an image and iteration; the loss is their mean.
        shared: One draw serves all images, so that equal images are fitted equally.
        timesteps: Given instead, (iteration, image, draw), integers.
        noise: Given with them, (iteration, image, draw, channels, height, width).
    """

    seed: int = 0
    count: int = 1
    shared: bool = False
    timesteps: Tensor | None = None
    noise: Tensor | None = None

    @classmethod
    def by(cls, generator: torch.Generator | None, *, count: int = 1, shared: bool = False) -> Draws:
        """Takes one number from a generator; all else follows from it."""
        return cls(int(torch.randint(2**62, (), generator=generator)), count, shared)

    def at(self, iteration: int, latents: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """Timesteps (image, draw) and noise (image, draw, channels, height, width) of one iteration.

        Raises:
            UsageError: Given draws do not fit the latents, or end before this iteration.
        """
        images = len(latents)
        if self.timesteps is not None and self.noise is not None:
            if iteration >= min(len(self.timesteps), len(self.noise)):
                raise UsageError(f"draws are given for {len(self.timesteps)} iterations only: give more or train less")
            timesteps, noise = self.timesteps[iteration], self.noise[iteration]
            if timesteps.ndim != 2 or noise.shape != (images, timesteps.shape[1], *latents.shape[1:]):
                raise UsageError(
                    f"given draws do not fit latents {tuple(latents.shape)}: timesteps must be (iteration, image,"
                    f" draw), got {tuple(self.timesteps.shape)}; noise (iteration, image, draw, channels, height,"
                    f" width), got {tuple(self.noise.shape)}"
                )
            return timesteps, noise.to(latents)
        generator = torch.Generator().manual_seed(self.seed + iteration)
        rows = 1 if self.shared else images
        part = (torch.arange(self.count) + torch.rand(rows, self.count, generator=generator)) / self.count
        timesteps = schedule.train_times(part)
        noise = torch.randn(rows, self.count, *latents.shape[1:], generator=generator)
        return timesteps.expand(images, -1), noise.expand(images, *noise.shape[1:]).to(latents)


class Denoising:
    r"""The loss that diffusion models are trained with, of given images.

    .. math:: \sum_i \mathrm{mean}_{t, \epsilon} |f(s_t\, z_i + n_t\,\epsilon, t, c_i) - y|^2

    y is what the network predicts, see `Target`; (s, n) are levels. Means over all elements and over the draws,
    the sum over the images.

    Reference: Ho et al., 2020, https://arxiv.org/abs/2006.11239, Eq. 14.
    """

    def __init__(self, model: Model, latents: Tensor, draws: Draws) -> None:
        """Takes clean latents, (image, channels, height, width)."""
        self.model, self.draws = model, draws
        self.latents = latents.detach().to(model.device).float()

    @property
    def rows_at_once(self) -> int:
        """Rows of one network call: what fills the 64x64 latents of an image of 512 pixels, one at least."""
        return max(1, 64 * 64 // (self.latents.shape[-2] * self.latents.shape[-1]))

    def backward(self, iteration: int, condition_of: Callable[[list[int]], Condition]) -> Tensor:
        """Adds the loss's gradient to whatever requires one.

        Costs one network evaluation, with a backward pass, for each image and draw.

        Args:
            iteration: Which draws.
            condition_of: From the images of a call's rows to their condition, as many rows; called for every call.

        Returns:
            The loss of each image, (image,).

        Raises:
            SamplingError: A loss became NaN or infinite.
        """
        schedule = self.model.schedule
        timesteps, noise = self.draws.at(iteration, self.latents, schedule)
        images, count = timesteps.shape
        owner = [image for image in range(images) for _ in range(count)]
        ts, noises = timesteps.flatten().tolist(), noise.flatten(0, 1)
        losses = torch.zeros(images * count)
        scale = HALF_PRECISION_SCALE if self.model.dtype == torch.float16 else 1.0
        for start in range(0, len(owner), self.rows_at_once):
            rows = slice(start, start + self.rows_at_once)
            levels = [schedule.level(t) for t in ts[rows]]
            true = [Prediction(*each) for each in zip(self.latents[owner[rows]], noises[rows], strict=True)]
            noisy = torch.stack([add_noise(one.x0, one.eps, level) for one, level in zip(true, levels, strict=True)])
            target = torch.stack([join(one, level, schedule.target) for one, level in zip(true, levels, strict=True)])
            with torch.enable_grad():
                output = self.model.predict(noisy, ts[rows], condition_of(owner[rows]))
                each = (output - target).square().flatten(1).mean(dim=1)
                (each.sum() * (scale / count)).backward()
            losses[rows] = each.detach().cpu()
        if not bool(losses.isfinite().all()):
            raise SamplingError(
                f"the loss became NaN or infinite at iteration {iteration + 1}: lower the learning rate, or load the"
                " model with dtype='fp32' or 'bf16'"
            )
        return losses.view(images, count).mean(dim=1)

    def unscale(self, parameters: Sequence[Tensor]) -> None:
        """Takes the scale of a half-precision network out of the gradients."""
        if self.model.dtype == torch.float16:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= HALF_PRECISION_SCALE


def fit(
    parameters: Mapping[str, Tensor],
    loss: Denoising,
    condition_of: Callable[[list[int]], Condition],
    optimizer: torch.optim.Optimizer,
    iterations: int,
    *,
    rate: Callable[[int], float] | None = None,
    slot: Slot | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Minimises the loss in place, from the checkpoint on where there is one.

    Args:
        parameters: What is fitted, by name, each requiring a gradient.
        loss: Of which images and draws.
        condition_of: See `Denoising.backward`; reads the parameters.
        optimizer: Over the parameters.
        iterations: In all; 0 leaves the parameters as they are.
        rate: Learning rate of each iteration; None: the optimiser's own.
        slot: Where the run is kept: every minute, when it stops for whatever reason, and in the end.
        watch: Progress and cancellation; its stage says what is fitted.

    Returns:
        The loss of each image before each update, (iteration, image).

    Raises:
        UsageError: The checkpoint holds other parameters.
        SamplingError: The loss broke down.
        Cancelled: The watch asked to stop.
    """
    watch = watch or Watch()
    state = _State(parameters, optimizer, iterations, slot)
    with nullcontext() if slot is None else slot.locked(watch):
        losses = state.resumed()
        saved = time.monotonic()
        try:
            for iteration in watch.over(range(len(losses), iterations)):
                optimizer.zero_grad()
                found = loss.backward(iteration, condition_of)
                loss.unscale(list(parameters.values()))
                if rate is not None:
                    for group in optimizer.param_groups:
                        group["lr"] = rate(iteration)
                with unbroken():
                    optimizer.step()
                    losses.append(found)
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    state.save(losses)
                    saved = time.monotonic()
        finally:
            state.save(losses)
    return torch.stack(losses) if losses else torch.empty(0, len(loss.latents))


def leaves(tensors: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Copies in float32 on the model's device that require a gradient."""
    return {name: tensor.detach().to(model.device).float().clone().requires_grad_() for name, tensor in tensors.items()}


class _State:
    """What a run keeps: parameters, losses, and until it is done the optimiser's moments."""

    def __init__(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, iterations: int, slot: Slot | None
    ) -> None:
        self.parameters, self.optimizer, self.iterations, self.slot = parameters, optimizer, iterations, slot
        self._saved = -1

    def resumed(self) -> list[Tensor]:
        """Sets parameters and optimiser to what was kept; returns the losses so far."""
        kept = None if self.slot is None else self.slot.load()
        if kept is None:
            return []
        tensors, fields = kept
        if any(name not in tensors or tensors[name].shape != own.shape for name, own in self.parameters.items()):
            raise UsageError(f"the checkpoint holds other tensors than are trained here: {fields}; delete it")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
        moments: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(_MOMENTS):
                owner, _, kind = name.removeprefix(_MOMENTS).rpartition("/")
                moments.setdefault(owner, {})[kind] = tensor
        if moments:
            state = self.optimizer.state_dict()
            state["state"] = {index: moments[name] for index, name in enumerate(self.parameters) if name in moments}
            self.optimizer.load_state_dict(state)
        self._saved = len(tensors[_LOSSES])
        return list(tensors[_LOSSES])

    def save(self, losses: list[Tensor]) -> None:
        if self.slot is None or len(losses) == self._saved or not losses:
            return
        done = len(losses) == self.iterations
        tensors: dict[str, Any] = dict(self.parameters) | {_LOSSES: torch.stack(losses)}
        if not done:
            for name, parameter in self.parameters.items():
                tensors |= {
                    f"{_MOMENTS}{name}/{kind}": value for kind, value in self.optimizer.state[parameter].items()
                }
        self.slot.save(tensors, {"done": len(losses), "iterations": self.iterations})
        self._saved = len(losses)


_LOSSES, _MOMENTS = "training/losses", "training/moments/"
_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def unbroken() -> Iterator[None]:
    """Holds Ctrl-C and the request to end back to the end of the block, so that no update is left half made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: handler for kind in _STOPS if callable(handler := signal.getsignal(kind))}
    held: list[tuple[int, Any]] = []
    for kind in before:
        signal.signal(kind, lambda *interrupt: held.append(interrupt))
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        for number, frame in held[:1]:
            before[signal.Signals(number)](number, frame)
