"""Batched DDIM sampling of the embedded model, for sheets and figures (users sample through `sfumato.generate`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from sfumato.emoji.defaults import GUIDANCE_SCALE
from sfumato.emoji.training.loop import autocast


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Prompts to padded token ids, (batch, tokens)."""
    ids = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    assert isinstance(ids, torch.Tensor)
    return ids


@torch.no_grad()
def generate(
    prompts: Sequence[str],
    *,
    tokenizer: Any,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    scheduler: DDIMScheduler,
    num_inference_steps: int = 50,
    guidance_scale: float = GUIDANCE_SCALE,
    seed: int = 0,
    batch: int = 32,
    device: str = "cpu",
) -> torch.Tensor:
    """Draws one image for each prompt by DDIM with classifier-free guidance, under bf16 autocast.

    Args:
        prompts: One caption for each image.
        tokenizer: The model's parts, as in Stable Diffusion.
        text_encoder: See `tokenizer`.
        unet: See `tokenizer`.
        autoencoder: See `tokenizer`.
        scheduler: See `tokenizer`.
        num_inference_steps: DDIM steps.
        guidance_scale: w in `uncond + w * (cond - uncond)`.
        seed: Of the starting noise.
        batch: Images at a time.
        device: Where the networks are.

    Returns:
        Pixels in about [-1, 1], (len(prompts), 3, height, width), on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    size, channels = unet.config["sample_size"], unet.config["in_channels"]
    noise = torch.randn(len(prompts), channels, size, size, generator=generator)
    scheduler.set_timesteps(num_inference_steps)
    images = []
    for start in range(0, len(prompts), batch):
        texts = list(prompts[start : start + batch])
        ids = tokenize(tokenizer, [""] * len(texts) + texts).to(device)
        latents = noise[start : start + batch].to(device)
        with autocast(device):
            prompt_embeds = text_encoder(ids)[0]
            for t in scheduler.timesteps:
                both = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
                uncond, cond = unet(both, t, prompt_embeds).sample.float().chunk(2)
                noise_pred = uncond + guidance_scale * (cond - uncond)
                latents = scheduler.step(noise_pred, t, latents).prev_sample
            scaled = (latents / autoencoder.config["scaling_factor"]).contiguous(memory_format=torch.channels_last)
            images.append(autoencoder.decode(scaled).sample.float().cpu())
    return torch.cat(images)
