"""Unconditional pixel-space pipelines at toy width, with random weights."""

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel


def toy_unet(seed: int = 0, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(**(options | changes)).eval()


def toy_ddpm_pipeline(seed: int = 0, scheduler: Any = None, **changes: Any) -> Any:
    """A `DDPMPipeline` of 16x16 pixels whose schedule ends above level 0, so that the last step holds noise too."""
    return DDPMPipeline(
        unet=toy_unet(seed, **changes),
        scheduler=scheduler or DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )


def toy_ddpm(seed: int = 0, scheduler: Any = None, **changes: Any) -> Any:
    """The same behind the model protocol."""
    from sfumato.models.pixel_ddpm import UnconditionalDDPM

    pipeline = toy_ddpm_pipeline(seed, scheduler, **changes)
    return UnconditionalDDPM.from_pipeline(pipeline, name=f"toy-{seed}", revision=f"toy-{seed}")
