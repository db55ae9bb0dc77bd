"""Stage 2 of training: the text encoder and the UNet together, on latents of the finished autoencoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from sfumato.emoji.networks import build_text_encoder, build_unet
from sfumato.emoji.pool import Pool, build_pool
from sfumato.emoji.training.diffusion import DROP_CAPTION, Denoiser
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop
from sfumato.emoji.training.networks import build_scheduler
from sfumato.emoji.training.sampling import generate, tokenize
from sfumato.emoji.training.sheets import save_sheet, to_images, to_pixels
from sfumato.emoji.world import STYLES, Concept, Scene, caption, sample_caption

MIN_SNR = 5.0


class LatentPool:
    """Encoded images: each is encoded when it is first asked for, and may be drawn anew on another background.

    Args:
        pool: The images.
        autoencoder: Encodes them.
        device: Where the latents are kept.

    Attributes:
        latents: Scaled latents, (count, channels, 16, 16).
        scenes: The scene of each; None where it has not been encoded yet.
    """

    def __init__(self, pool: Pool, autoencoder: AutoencoderKL, device: str) -> None:
        self._pool, self._autoencoder = pool, autoencoder
        self.latents = torch.empty(len(pool), autoencoder.config["latent_channels"], 16, 16, device=device)
        self.scenes: list[Scene | None] = [None] * len(pool)

    def refresh(self, rows: Sequence[int], generator: random.Random) -> None:
        """Draws these rows again, on other backgrounds."""
        images, drawn = self._pool.draw(rows, generator)
        self.latents[list(rows)] = _encode(self._autoencoder, images, str(self.latents.device))
        for row, scene in zip(rows, drawn, strict=True):
            self.scenes[row] = scene

    def take(self, rows: Sequence[int], generator: random.Random) -> tuple[torch.Tensor, list[Scene]]:
        """Gives the latents (rows, channels, 16, 16) and the scenes of these rows."""
        if missing := sorted({row for row in rows if self.scenes[row] is None}):
            self.refresh(missing, generator)
        return self.latents[list(rows)], [scene for row in rows if (scene := self.scenes[row]) is not None]


@torch.no_grad()
def _encode(autoencoder: AutoencoderKL, images: Any, device: str) -> torch.Tensor:
    pixels = to_pixels(images).to(device, memory_format=torch.channels_last)
    with autocast(device):
        latents = autoencoder.encode(pixels).latent_dist.mode()
    scaled: torch.Tensor = latents.float() * autoencoder.config["scaling_factor"]
    return scaled


def sheet_prompts(concepts: Sequence[Concept], count: int = 32) -> list[str]:
    """Captions of a progress sheet: every style, many concepts, and some short ones."""
    chosen = [concepts[index * len(concepts) // count] for index in range(count)]
    backgrounds = ("white", "blue", "yellow", "pink", "green", "gray", "red", "purple")
    scenes = [
        Scene(concept.name, list(STYLES)[index % len(STYLES)], backgrounds[index % 7])
        for index, concept in enumerate(chosen)
    ]
    return [caption(scene) for scene in scenes[:-4]] + [f"a {scene.concept}" for scene in scenes[-4:]]


def train_diffusion(
    concepts: Sequence[Concept],
    size: int,
    autoencoder: AutoencoderKL,
    tokenizer: Any,
    settings: Settings,
    *,
    per_pair: int = 48,
    refresh: int = 4,
    export_to: Path | None = None,
) -> Denoiser:
    """Trains the text encoder and the UNet with noise prediction and min-SNR weights.

    Args:
        concepts: The world's concepts; their held-out pairs are left out.
        size: Side of the images in pixels.
        autoencoder: The finished autoencoder.
        tokenizer: The finished tokenizer.
        settings: See `Settings`.
        per_pair: Placements of each (concept, style).
        refresh: Latents that each worker draws anew at each step.
        export_to: Folder for interim weights at each checkpoint, or None.

    Returns:
        The averaged networks.
    """
    torch.manual_seed(settings.seed)
    device = settings.device
    autoencoder = autoencoder.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    pool = build_pool(concepts, per_pair, size=size, seed=settings.seed + 2)
    latent_pool = LatentPool(pool, autoencoder, device)
    unet = build_unet(size)
    unet.set_attn_processor(AttnProcessor())  # on CPUs its backward pass beats the fused kernel's
    model = Denoiser(unet, build_text_encoder(size, tokenizer)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    scheduler = build_scheduler("epsilon")
    alpha_bars = scheduler.alphas_cumprod.to(device)
    weights = (MIN_SNR * (1 - alpha_bars) / alpha_bars).clamp(max=1.0)  # min(snr, 5) / snr

    def loss_of_batch(worker: Worker) -> torch.Tensor:
        mine, draw, network = range(worker.index, len(pool), worker.count), worker.random, worker.model
        latent_pool.refresh(draw.sample(mine, refresh), draw)
        rows = [draw.choice(mine) for _ in range(worker.batch)]
        latents, scenes = latent_pool.take(rows, draw)
        captions = ["" if draw.random() < DROP_CAPTION else sample_caption(scene, draw) for scene in scenes]
        ids = tokenize(tokenizer, captions).to(device)
        noise = torch.randn(latents.shape, device=device, generator=worker.generator)
        # one draw from each of `batch` equal stretches of time: the same expectation, less variance
        spread = torch.arange(len(rows), device=device) + torch.rand(
            len(rows), device=device, generator=worker.generator
        )
        t = (spread / len(rows) * len(alpha_bars)).long().clamp(max=len(alpha_bars) - 1)
        alpha_bar = alpha_bars[t].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        assert isinstance(network, Denoiser)
        with autocast(device):
            embeds = network.text_encoder(ids)[0]
            noise_pred = network.unet(noisy.contiguous(memory_format=torch.channels_last), t, embeds).sample
        error = (noise_pred.float() - noise).square().mean(dim=(1, 2, 3))
        loss: torch.Tensor = (weights[t] * error).mean()
        return loss

    prompts = sheet_prompts(concepts)

    def on_save(average: nn.Module, step: int) -> None:
        assert isinstance(average, Denoiser)
        parts: dict[str, Any] = {
            "tokenizer": tokenizer,
            "text_encoder": average.text_encoder,
            "unet": average.unet,
            "autoencoder": autoencoder,
            "scheduler": build_scheduler("epsilon"),
        }
        pixels = generate(prompts, **parts, num_inference_steps=20, device=device)
        save_sheet(to_images(pixels), settings.folder / f"diffusion-{step:06d}.png", columns=8)
        if export_to is not None:
            from sfumato.emoji.training.export import export_pipeline

            export_pipeline(export_to, **parts)

    average = train_loop("diffusion", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, Denoiser)
    return average
