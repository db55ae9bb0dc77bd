"""Stage 1 of training: the autoencoder, pixels to 16x16 latents and back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from sfumato.emoji.networks import build_autoencoder
from sfumato.emoji.pool import build_pool
from sfumato.emoji.training.autoencoder import KL_WEIGHT, psnr, reconstruction_loss
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop
from sfumato.emoji.training.sheets import save_sheet, to_images, to_pixels
from sfumato.emoji.world import Concept


def train_autoencoder(
    concepts: Sequence[Concept],
    size: int,
    settings: Settings,
    *,
    per_pair: int = 48,
    start_from: Path | None = None,
) -> AutoencoderKL:
    """Trains the autoencoder and measures its latents.

    Args:
        concepts: The world's concepts; their held-out pairs are left out.
        size: Side of the images in pixels.
        settings: See `Settings`.
        per_pair: Renderings of each (concept, style) to train on.
        start_from: Folder of a model whose autoencoder is trained further; None for new weights.

    Returns:
        The averaged autoencoder, its latents levelled (see `level_latents`).
    """
    torch.manual_seed(settings.seed)
    generator = random.Random(settings.seed)
    pool = build_pool(concepts, per_pair, size=size, seed=settings.seed + 1, flip_probability=0.5)
    unseen = to_pixels(build_pool(concepts, 1, size=size, seed=settings.seed + 999, pairs="all").images())
    new = AutoencoderKL.from_pretrained(start_from / "vae") if start_from else build_autoencoder(size)
    model = new.to(settings.device, memory_format=torch.channels_last)

    def loss_of_batch(worker: Worker) -> torch.Tensor:
        rows = [worker.random.randrange(len(pool)) for _ in range(worker.batch)]
        pixels = to_pixels(pool.draw(rows, worker.random)[0]).to(settings.device, memory_format=torch.channels_last)
        network = worker.model
        assert isinstance(network, AutoencoderKL)
        with autocast(settings.device):
            posterior = network.encode(pixels).latent_dist
            output = network.decode(posterior.sample(worker.generator)).sample
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss: torch.Tensor = reconstruction_loss(output.float(), pixels) + KL_WEIGHT * kl
        return loss

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, AutoencoderKL)
        output = reconstruct(average, unseen, settings.device)
        order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))[:16]
        rows = torch.cat([unseen[order], output[order]])
        save_sheet(to_images(rows), settings.folder / f"autoencoder-{step:06d}.png", columns=16)
        return {"psnr": float(psnr(output, unseen).mean())}

    average = train_loop("autoencoder", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, AutoencoderKL)
    level_latents(average, to_pixels(pool.draw(range(0, len(pool), per_pair // 4), generator)[0]), settings.device)
    return average


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, pixels: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """Encodes and decodes (batch, 3, size, size) in [-1, 1], by the mean of the posterior, in batches of 32."""
    outputs = []
    for batch in pixels.split(32):
        latents = autoencoder.encode(batch.to(device, memory_format=torch.channels_last)).latent_dist.mode()
        outputs.append(autoencoder.decode(latents).sample.cpu())
    return torch.cat(outputs)


@torch.no_grad()
def level_latents(autoencoder: AutoencoderKL, pixels: torch.Tensor, device: str = "cpu") -> None:
    """Centres the latent channels and gives them one spread, without changing a single reconstruction.

    The change is folded into the two 1x1 convolutions around the latents. `scaling_factor` becomes one over the
    latents' standard deviation, so that scaled latents have mean 0 and standard deviation 1 in each channel.

    Args:
        autoencoder: Changed in place.
        pixels: Images to measure on, (batch, 3, size, size) in [-1, 1].
        device: Where the autoencoder is.
    """
    means = [autoencoder.encode(batch.to(device)).latent_dist.mode() for batch in pixels.split(32)]
    channels = torch.cat(means).float().transpose(0, 1).flatten(1)
    overall, centre = channels.std(), channels.mean(1)
    gain = overall / channels.std(1)
    into, out = autoencoder.quant_conv, autoencoder.post_quant_conv
    assert into is not None
    assert out is not None
    assert into.bias is not None
    assert out.bias is not None
    number = len(gain)  # the first rows make the mean, the others the log-variance
    out.bias += out.weight[:, :, 0, 0] @ centre
    out.weight /= gain.view(1, -1, 1, 1)
    into.weight[:number] *= gain.view(-1, 1, 1, 1)
    into.bias[:number] = (into.bias[:number] - centre) * gain
    into.bias[number:] += 2 * gain.log()
    autoencoder.register_to_config(scaling_factor=float(1 / overall))
