"""A pool of encoded scenes to train on: rendered and encoded when first asked for, and drawn anew a few at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import Scene
from sfumato.emoji.training.loop import autocast
from sfumato.emoji.training.networks import LATENT_SIDE, MAP_SIDE

MOST_THINGS = 3


class ScenePool:
    """Encoded scenes.

    Args:
        atlas: Its world's scenes are drawn, without the combinations that are held out.
        autoencoder: Encodes them.
        count: How many are kept.

    Attributes:
        latents: Scaled latents, fp16, (count, channels, 32, 32).
        masks: How much of each 16x16 position each thing covers, fp16, (count, 3, 16, 16).
        scenes: None where it has not been drawn yet.
    """

    def __init__(self, atlas: Atlas, autoencoder: AutoencoderKL, count: int) -> None:
        self._atlas, self._autoencoder = atlas, autoencoder
        channels, device = autoencoder.config["latent_channels"], atlas.device
        self.latents = torch.empty(count, channels, LATENT_SIDE, LATENT_SIDE, dtype=torch.float16, device=device)
        self.masks = torch.zeros(count, MOST_THINGS, MAP_SIDE, MAP_SIDE, dtype=torch.float16, device=device)
        self.scenes: list[Scene | None] = [None] * count

    def __len__(self) -> int:
        return len(self.scenes)

    def renew(self, rows: Sequence[int], generator: random.Random) -> None:
        """Draws these rows again."""
        scenes = [sample_scene(self._atlas.world, generator) for _ in rows]
        latents, masks = encode_scenes(scenes, self._atlas, self._autoencoder)
        self.latents[list(rows)] = latents.half()
        self.masks[list(rows)] = masks.half()
        for row, scene in zip(rows, scenes, strict=True):
            self.scenes[row] = scene

    def take(self, rows: Sequence[int], generator: random.Random) -> tuple[Tensor, Tensor, list[Scene]]:
        """Latents (rows, channels, 32, 32), masks (rows, 3, 256) and scenes of these rows."""
        if missing := sorted({row for row in rows if self.scenes[row] is None}):
            self.renew(missing, generator)
        scenes = [scene for row in rows if (scene := self.scenes[row]) is not None]
        return self.latents[list(rows)].float(), self.masks[list(rows)].float().flatten(2), scenes


@torch.no_grad()
def encode_scenes(scenes: Sequence[Scene], atlas: Atlas, autoencoder: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Renders and encodes: scaled latents (scenes, channels, 32, 32), masks at 16x16 (scenes, 3, 16, 16)."""
    pixels, masks = render(scenes, atlas)
    with autocast(str(atlas.device)):
        latents = autoencoder.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
    small = F.adaptive_avg_pool2d(masks, MAP_SIDE)
    padded = F.pad(small, (0, 0, 0, 0, 0, MOST_THINGS - small.shape[1]))
    return latents.float() * autoencoder.config["scaling_factor"], padded
