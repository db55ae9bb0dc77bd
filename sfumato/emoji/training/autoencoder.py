"""First stage of training: the autoencoder, pixels to 32x32 latents and back."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import SIZE
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop
from sfumato.emoji.training.networks import Widths, build_autoencoder
from sfumato.emoji.training.sheets import save_sheet, to_images

KL_WEIGHT = 3e-4
CROP = 64
"""Half of the steps train on crops of this side, four times as many of them; the other half on whole images."""


def reconstruction_loss(output: Tensor, pixels: Tensor) -> Tensor:
    """L1 of the pixels, plus L1 of their horizontal and vertical differences, which keeps edges sharp.

    Args:
        output: Reconstruction, (batch, 3, height, width).
        pixels: Truth in [-1, 1], same shape.
    """
    error = output - pixels
    across = error[..., 1:] - error[..., :-1]
    down = error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 0.5 * (across.abs().mean() + down.abs().mean())


def psnr(output: Tensor, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image: (batch, 3, height, width) in [-1, 1] to (batch,)."""
    error = (output.clamp(-1, 1) - pixels).square().flatten(1).mean(1) / 4
    return -10 * error.clamp_min(1e-10).log10()


def train_autoencoder(
    atlas: Atlas, widths: Widths, settings: Settings, *, start_from: Path | None = None
) -> AutoencoderKL:
    """Trains the autoencoder and levels its latents.

    Args:
        atlas: The drawings of the world; combinations that are held out are not trained on.
        widths: Sizes of the networks.
        settings: See `Settings`.
        start_from: Folder of a model whose autoencoder is trained further; None for new weights.

    Returns:
        The averaged autoencoder, its latents levelled (see `level_latents`).
    """
    torch.manual_seed(settings.seed)
    draw = random.Random(settings.seed + 999)
    unseen, _ = render([sample_scene(atlas.world, draw, may=True) for _ in range(96)], atlas)
    new = AutoencoderKL.from_pretrained(start_from / "vae") if start_from else build_autoencoder(widths)
    model = new.to(settings.device, memory_format=torch.channels_last)

    def loss_of_batch(worker: Worker) -> Tensor:
        pixels = batch_of_pixels(atlas, worker).contiguous(memory_format=torch.channels_last)
        network = worker.model
        assert isinstance(network, AutoencoderKL)
        with autocast(settings.device):
            posterior = network.encode(pixels).latent_dist
            output = network.decode(posterior.sample(worker.generator)).sample
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        loss: Tensor = reconstruction_loss(output.float(), pixels) + KL_WEIGHT * kl
        return loss

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, AutoencoderKL)
        output = reconstruct(average, unseen)
        rows = torch.cat([unseen[:12], output[:12]])
        save_sheet(to_images(rows), settings.folder / f"autoencoder-{step:06d}.png", columns=12)
        return {"psnr": float(psnr(output, unseen).mean())}

    average = train_loop("autoencoder", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, AutoencoderKL)
    scenes = [sample_scene(atlas.world, draw) for _ in range(256)]
    level_latents(average, [render(scenes[start : start + 32], atlas)[0] for start in range(0, 256, 32)])
    return average


def batch_of_pixels(atlas: Atlas, worker: Worker) -> Tensor:
    """A worker's next batch: crops, or a quarter as many whole images."""
    draw, number = worker.random, worker.batch
    if draw.random() < 0.5:
        return render([sample_scene(atlas.world, draw) for _ in range(max(1, number // 4))], atlas)[0]
    images, _ = render([sample_scene(atlas.world, draw) for _ in range(number // 2)], atlas)
    images = torch.cat([images, images])
    corners = [(draw.randint(0, SIZE - CROP), draw.randint(0, SIZE - CROP)) for _ in range(len(images))]
    crops = [one[:, y : y + CROP, x : x + CROP] for one, (y, x) in zip(images, corners, strict=True)]
    return torch.stack(crops)


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encodes and decodes (batch, 3, size, size) in [-1, 1], by the mean of the posterior, 32 at a time."""
    outputs = []
    for batch in pixels.split(32):
        batch = batch.to(autoencoder.device, memory_format=torch.channels_last)
        outputs.append(autoencoder.decode(autoencoder.encode(batch).latent_dist.mode()).sample.to(pixels))
    return torch.cat(outputs)


@torch.no_grad()
def level_latents(autoencoder: AutoencoderKL, batches: list[Tensor]) -> None:
    """Centres the latent channels and gives them one spread, without changing a single reconstruction.

    The change is folded into the two 1x1 convolutions around the latents. `scaling_factor` becomes one over the
    latents' standard deviation, so that scaled latents have mean 0 and standard deviation 1 in each channel.

    Args:
        autoencoder: Changed in place.
        batches: Images to measure on, each (batch, 3, size, size) in [-1, 1].
    """
    means = [autoencoder.encode(batch.to(autoencoder.device)).latent_dist.mode() for batch in batches]
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
