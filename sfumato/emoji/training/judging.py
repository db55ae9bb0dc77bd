"""What the training of networks that look at images shares."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from sfumato.emoji.training.export import write_checksums
from sfumato.files import write_whole


def blur_and_noise(pixels: torch.Tensor) -> torch.Tensor:
    """Softens and disturbs each image by another amount, so that a judge does not hang on the finest detail."""
    amount = torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
    kernel = torch.tensor([1.0, 2.0, 1.0], device=pixels.device)
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    soft = functional.conv2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    mixed = torch.lerp(pixels, soft, amount)
    return mixed + 0.1 * torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * torch.randn_like(pixels)


def save_judge(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes a judge as fp16 safetensors by way of a temporary file, and renews the folder's checksums."""
    state = {
        key: value.to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(state, metadata))
    write_checksums(path.parent)
