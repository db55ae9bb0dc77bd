"""Paths of the teacher from noise to clean latents, which a student of few steps learns from.

A path is solved once, with guidance, by DPM-Solver++ on the grid of the student; every point on it leads to the same
clean latents. So the target of each point is exact, and no average of the student has to stand in for it.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.emoji.defaults import GUIDANCE_SCALE
from sfumato.emoji.render import Atlas
from sfumato.emoji.scene_captions import caption, sample_telling
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.training.loop import autocast
from sfumato.emoji.training.pool import encode_scenes
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import Step, add_noise
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.sampling.dpm_solver import DPMSolverPP
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample

POINTS = 8
"""Of a path; a run of four steps takes every other one."""
FROM_IMAGES = 0.5
"""Share of the paths that start at a noisy image, as edits do, and not at noise alone."""
LATEST = 5
"""Last point at which such a path starts."""
OFTEN = 3
"""How many times more often a point of the four-step grid is trained on than one between them."""


@dataclass(frozen=True)
class Path:
    """A solved path.

    Attributes:
        first: Index of its first point on the grid.
        points: Noisy latents, fp16, (points, channels, height, width).
        clean: Where it ends, fp16, (channels, height, width).
        text: Embedding of the caption, fp16, (tokens, dim).
    """

    first: int
    points: Tensor
    clean: Tensor
    text: Tensor


class Teacher:
    """Solves paths.

    Args:
        model: The trained model.
        atlas: Its world's scenes are drawn, without the combinations that are held out.

    Attributes:
        schedule: Of the model, ending at clean latents.
        times: Timesteps of the points of a path, noisiest first.
    """

    def __init__(self, model: StableDiffusion, atlas: Atlas) -> None:
        assert isinstance(model.schedule, DiscreteVP)
        self.schedule = model.schedule = replace(model.schedule, final_alpha_bar=1.0)
        self.times = replace(self.schedule, spacing="trailing").timesteps(POINTS)
        self.model, self._atlas = model, atlas

    def paths(self, count: int, draw: random.Random, generator: torch.Generator) -> list[Path]:
        """New paths of scenes drawn at random, all from one point of the grid on; 2 evaluations a point and path."""
        scenes = [sample_scene(self._atlas.world, draw) for _ in range(count)]
        captions = [caption(scene, sample_telling(scene, draw), self._atlas.world) for scene in scenes]
        condition, device = self.model.encode_prompt(captions), self.model.device
        noise = torch.randn((count, *self.model.latent_shape()), device=device, generator=generator)
        first = draw.randint(1, LATEST) if draw.random() < FROM_IMAGES else 0
        if first:
            latents, _ = encode_scenes(scenes, self._atlas, self.model.vae)
            noise = add_noise(latents, noise, self.schedule.level(self.times[first]))
        points = [noise]

        def keep(latents: Tensor, step: Step) -> Tensor:
            points.append(latents[0])
            return latents

        branch = Branch(condition, guidance_scale=GUIDANCE_SCALE)
        with autocast(device.type):
            sample(
                self.model, noise, {"image": branch}, timesteps=self.times, start_index=first, stepper=DPMSolverPP(),
                on_step=[keep],
            )  # fmt: skip
        *noisy, clean = (point.half() for point in points)
        by_image = torch.stack(noisy, dim=1)
        return [Path(first, by_image[k], clean[k], condition.text[k].half()) for k in range(count)]


class PathPool:
    """The latest paths, of which batches are made; new ones take the place of the oldest.

    Args:
        teacher: Solves them.
        size: How many are kept.
    """

    def __init__(self, teacher: Teacher, size: int) -> None:
        self._teacher, self._paths = teacher, deque[Path](maxlen=size)

    def __len__(self) -> int:
        return len(self._paths)

    def renew(self, count: int, draw: random.Random, generator: torch.Generator) -> None:
        """Adds new paths."""
        self._paths.extend(self._teacher.paths(count, draw, generator))

    def take(self, count: int, draw: random.Random) -> tuple[Tensor, list[int], Tensor, Tensor]:
        """Draws points of paths.

        Returns:
            Noisy latents (count, channels, height, width), their timesteps, the clean latents of the same shape that
            they lead to, and the embeddings of the captions (count, tokens, dim).
        """
        paths = draw.choices(self._paths, k=count)
        indices = [_index(path.first, draw) for path in paths]
        noisy = [path.points[index - path.first] for path, index in zip(paths, indices, strict=True)]
        clean, text = (torch.stack([getattr(path, part) for path in paths]).float() for part in ("clean", "text"))
        return torch.stack(noisy).float(), [self._teacher.times[index] for index in indices], clean, text


def _index(first: int, draw: random.Random) -> int:
    """A point of the grid from `first` on; those of the four-step grid more often."""
    there = range(first, POINTS)
    return draw.choices(there, [OFTEN if index % 2 == 0 else 1 for index in there])[0]
