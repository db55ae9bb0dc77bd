"""Two toy images, and methods run on them."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sfumato.metrics.distance import PixelDistance
from sfumato.morphs.method import MORPHS
from sfumato.morphs.path import Ends, MorphPath
from sfumato.morphs.task import MorphTask

PROMPTS = ("a photo of a cat", "a red dog")
STEPS = 4
WEIGHTS = (0.0, 0.3, 0.5, 1.0)


def toy_ends(*, equal: bool = False) -> Ends:
    generator = torch.Generator().manual_seed(3)
    pixels, latents = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1, torch.zeros(2, 4, 8, 8)
    latents = 0.5 * torch.randn(latents.shape, generator=generator)
    if equal:
        return Ends(pixels[:1].repeat(2, 1, 1, 1), latents[:1].repeat(2, 1, 1, 1), (PROMPTS[0], PROMPTS[0]))
    return Ends(pixels, latents, PROMPTS)


def task_of(model: Any, ends: Ends | None = None, **given: Any) -> MorphTask:
    given = {"num_inference_steps": STEPS} | given
    generator = torch.Generator().manual_seed(5)
    return MorphTask(model, ends or toy_ends(), PixelDistance(), generator, **given)


def path_of(model: Any, name: str, ends: Ends | None = None, **arguments: Any) -> MorphPath:
    """A morph: of the arguments, those that a task has go into the task, the others are options."""
    of_task = {field.name for field in fields(MorphTask)} & arguments.keys()
    task = task_of(model, ends, **{name: arguments.pop(name) for name in of_task})
    return MORPHS[name].function(task, **arguments)


def drawn(path: MorphPath, weights: Sequence[float] = WEIGHTS) -> Tensor:
    with torch.no_grad():
        return path.draw(weights)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
