"""Second stage of training: the text encoder and the UNet together, on latents of the finished autoencoder."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sfumato.emoji.render import Atlas
from sfumato.emoji.scene_captions import Telling, caption, caption_words, sample_telling
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import AMOUNTS, COLOURS, Background, Scene, Thing, World
from sfumato.emoji.training.attention import (
    RELATION,
    ROLES,
    curve_areas,
    looking_loss,
    means,
    record_maps,
    recorded_maps,
    word_maps,
)
from sfumato.emoji.training.export import export_pipeline
from sfumato.emoji.training.knowing import Probe
from sfumato.emoji.training.loop import Settings, Worker, autocast, memory_format, train_loop
from sfumato.emoji.training.networks import Widths, build_scheduler, build_text_encoder, build_unet
from sfumato.emoji.training.pool import MOST_THINGS, ScenePool, encode_scenes
from sfumato.emoji.training.reading import measure_reading
from sfumato.emoji.training.sampling import generate
from sfumato.emoji.training.sheets import save_sheet, to_images
from sfumato.emoji.training.tokenizer import Encoder
from sfumato.errors import ModelError

MOST_WEIGHT = 5.0
"""Largest weight of an error of the clean latents."""
DROP_CAPTION = 0.1
NOISIEST, PURE_SHARE, PURE_SHARE_TOLD = 950, 0.2, 0.5
"""From this time on so many samples are noise alone, as runs begin: at the schedule's last level the mean colours and
the places of an image can still be made out, and what the noisy latents tell is not read in the caption. More of those
whose caption tells a relation, which decides there."""
KNOWING_WEIGHT = 0.02
"""Of what the words must know of the scene."""
SHARD = "15MB"
"""Largest size of a file of weights."""
SCENES_LOOKED_AT, SCENES_READ = 32, 64
"""On how many scenes attention and reading are measured with each checkpoint."""


class Denoiser(nn.Module):
    """The two networks that are trained together.

    Args:
        unet: Predicts the velocity.
        text_encoder: Embeds the caption.
        probe: In training, asks the embeddings what they know of the scene.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, probe: Probe | None = None) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.probe = probe


def train_diffusion(
    atlas: Atlas,
    widths: Widths,
    autoencoder: AutoencoderKL,
    tokenizer: Any,
    settings: Settings,
    *,
    attention_weight: float = 0.05,
    pool_size: int = 8_000,
    renewed: float = 0.08,
    go_on_from: Path | None = None,
    export_to: Path | None = None,
) -> Denoiser:
    """Trains the text encoder and the UNet to predict the velocity.

    With noise prediction, an error at high noise costs next to nothing, and colours and places, which are decided
    there, are learned late; the velocity there is the clean latents.

    Args:
        atlas: The drawings of the world; combinations that are held out are not trained on.
        widths: Sizes of the networks.
        autoencoder: The finished autoencoder.
        tokenizer: The finished tokenizer.
        settings: See `Settings`.
        attention_weight: Weight of `attention_loss`; 0 for none.
        pool_size: Scenes that are kept encoded.
        renewed: Share of a batch that is drawn anew in the pool at each step.
        go_on_from: Folder of a model whose networks are trained further, see `load_networks`; None: new networks.
        export_to: Folder of the weights and a sheet of samples, written at each checkpoint; or None.

    Returns:
        The averaged networks.

    Raises:
        ModelError: The model to go on from has other words or sizes.
    """
    torch.manual_seed(settings.seed)
    device = settings.device
    autoencoder = autoencoder.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    pool, encoder = ScenePool(atlas, autoencoder, pool_size), Encoder(tokenizer)
    styles = torch.tensor([encoder.word(style)[0] for style in atlas.world.styles])
    snow_words = torch.tensor([encoder.word(word)[0] for word in (*AMOUNTS, "snowflakes")])
    model = _networks(widths, tokenizer, atlas.world, go_on_from)
    model = model.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    record_maps(model.unet)
    alpha_bars = build_scheduler().alphas_cumprod.to(device)
    # an error of the velocity weighs snr + 1 in the clean latents, at most 5: little noise is not all that is learned
    weights = (MOST_WEIGHT * (1 - alpha_bars)).clamp(max=1.0)

    def loss_of_batch(worker: Worker) -> Tensor:
        mine, draw, network = range(worker.index, len(pool), worker.count), worker.random, worker.model
        assert isinstance(network, Denoiser)
        assert network.probe is not None
        pool.renew(draw.sample(mine, max(1, round(renewed * worker.batch))), draw)
        latents, masks, scenes = pool.take([draw.choice(mine) for _ in range(worker.batch)], draw)
        captions = [
            [] if draw.random() < DROP_CAPTION else caption_words(scene, sample_telling(scene, draw), atlas.world)
            for scene in scenes
        ]
        ids, share = encoder.encode(captions, MOST_THINGS, ROLES)
        share = share.to(device)
        t, noisy, target = noise_latents(latents, share[:, RELATION].sum((1, 2)) > 0, alpha_bars, worker.generator)
        with autocast(device):
            embeds = network.text_encoder(ids.to(device))[0]
            velocity = network.unet(noisy.contiguous(memory_format=memory_format(device)), t, embeds).sample
        error = (velocity.float() - target).square().mean(dim=(1, 2, 3))
        loss: Tensor = (weights[t] * error).mean() + KNOWING_WEIGHT * network.probe.loss(embeds, share, scenes)
        if attention_weight:
            style, snow = (torch.isin(ids, words).float().to(device) for words in (styles, snow_words))
            looking = looking_loss(network.unet, share, masks, style=style, snow=snow, signal=alpha_bars[t].sqrt())
            loss = loss + attention_weight * looking
        return loss

    prompts = sheet_prompts(atlas)

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, Denoiser)
        parts: dict[str, Any] = {
            "tokenizer": tokenizer,
            "text_encoder": average.text_encoder,
            "unet": average.unet,
            "autoencoder": autoencoder,
            "scheduler": build_scheduler(),
        }
        pixels = generate(prompts, **parts, num_inference_steps=20, device=device)
        save_sheet(to_images(pixels), settings.folder / f"diffusion-{step:06d}.png", columns=8)
        if export_to is not None:
            export_pipeline(export_to, **parts, shard=SHARD)
            save_sheet(to_images(pixels), export_to / "samples.png", columns=8)
        figures = measure_attention(average, encoder, atlas, autoencoder, count=SCENES_LOOKED_AT)
        return {**figures, **measure_reading(average, encoder, atlas, autoencoder, count=SCENES_READ)}

    average = train_loop("diffusion", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, Denoiser)
    return average


def _networks(widths: Widths, tokenizer: Any, world: World, go_on_from: Path | None) -> Denoiser:
    """New networks, or those of a finished model."""
    model = Denoiser(build_unet(widths), build_text_encoder(widths, tokenizer), Probe(widths.text, world))
    if go_on_from is not None:
        load_networks(model, go_on_from, tokenizer)
    return model


def load_networks(model: Denoiser, folder: Path, tokenizer: Any) -> None:
    """Gives new networks the weights of a finished model, to train them further.

    Layers that the model's text encoder lacks begin as the identity: the last parts of both of their branches are 0.

    Args:
        model: Changed in place.
        folder: Of the finished model.
        tokenizer: Of `model`; must be the finished model's.

    Raises:
        ModelError: The finished model has other words or sizes.
    """
    if CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab() != tokenizer.get_vocab():
        raise ModelError(f"{folder} knows other words than those of this world")
    unet, text_encoder = (
        network.from_pretrained(folder / part).state_dict()
        for network, part in ((UNet2DConditionModel, "unet"), (CLIPTextModel, "text_encoder"))
    )
    try:
        model.unet.load_state_dict(unet)
        lacking, surplus = model.text_encoder.load_state_dict(text_encoder, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{folder} has networks of other sizes, see --size: {error}") from None
    layers = {name for name in lacking if ".layers." in name}
    if surplus or layers != set(lacking):
        raise ModelError(f"{folder} has another text encoder: {[*surplus, *sorted(set(lacking) - layers)]}")
    for name, weights in model.text_encoder.named_parameters():
        if name in layers and (".out_proj." in name or ".fc2." in name):
            nn.init.zeros_(weights)


def noise_latents(
    latents: Tensor, told: Tensor, alpha_bars: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws times and noise for a batch; a share of it is noise alone.

    Args:
        latents: Clean, (batch, channels, height, width).
        told: Which captions tell a relation, (batch,) bool: more of these are noise alone.
        alpha_bars: Of every time.
        generator: Of all draws.

    Returns:
        Times (batch,), noisy latents, and the velocity by which these lead to the clean ones.
    """
    device = latents.device
    noise = torch.randn(latents.shape, device=device, generator=generator)
    t = stratified_times(len(latents), len(alpha_bars), generator)
    chance, late = torch.rand(2, len(t), device=device, generator=generator)
    pure = chance < torch.where(told, PURE_SHARE_TOLD, PURE_SHARE)
    t = torch.where(pure, (NOISIEST + late * (len(alpha_bars) - NOISIEST)).long(), t)
    signal = alpha_bars[t].sqrt().view(-1, 1, 1, 1)
    level = (1 - signal.square()).sqrt()
    noisy = torch.where(pure.view(-1, 1, 1, 1), noise, signal * latents + level * noise)
    return t, noisy, (signal * noisy - latents) / level


def stratified_times(count: int, times: int, generator: torch.Generator) -> Tensor:
    """Draws times, one from each of `count` equally likely stretches, which has less variance than plain draws.

    High noise comes more often: two thirds of the draws lie in the upper half, where colours, places and styles are
    decided.
    """
    device = generator.device
    spread = torch.arange(count, device=device) + torch.rand(count, device=device, generator=generator)
    return ((spread / count) ** 0.6 * times).long().clamp(max=times - 1)


@torch.no_grad()
def measure_attention(
    model: Denoiser, encoder: Encoder, atlas: Atlas, autoencoder: AutoencoderKL, *, count: int, seed: int = 31337
) -> dict[str, float]:
    """Areas under the ROC curve of words at 16x16, on scenes of two things that were never trained on.

    Maps are averaged over heads, layers and the times 300, 500 and 700.

    Args:
        model: Its UNet has `Recorded` processors.
        encoder: Encodes captions.
        atlas: The drawings.
        autoencoder: Encodes the scenes.
        count: Scenes.
        seed: Of scenes, captions and noise.

    Returns:
        "auc_own", "auc_other", "auc_tint".
    """
    draw = random.Random(seed)
    scenes = [sample_scene(atlas.world, draw, things=2) for _ in range(count)]
    latents, masks = encode_scenes(scenes, atlas, autoencoder)
    ids, share = encoder.encode([caption_words(scene) for scene in scenes], MOST_THINGS, ROLES)
    alpha_bars = build_scheduler().alphas_cumprod
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    embeds = model.text_encoder(ids.to(latents.device))[0]
    sums = torch.zeros(count, masks[0, 0].numel(), ids.shape[1], device=latents.device)
    for t in (300, 500, 700):
        noisy = alpha_bars[t].sqrt() * latents + (1 - alpha_bars[t]).sqrt() * noise
        for start in range(0, count, 16):
            rows = slice(start, start + 16)
            model.unet(noisy[rows], t, embeds[rows])
            sums[rows] += recorded_maps(model.unet)
    share = share.to(latents.device)
    areas = curve_areas(word_maps(sums, share).cpu(), share.sum(-1).cpu() > 0, masks.flatten(2).cpu())
    return {f"auc_{kind}": value for kind, value in means([areas]).items()}


def sheet_prompts(atlas: Atlas) -> list[str]:
    """Captions of a progress sheet: 16 of pairs, 8 of one thing, 8 of tints and patterns."""
    draw, world = random.Random(5), atlas.world
    names = [concept.name for concept in world.concepts]
    tinted = [concept.name for concept in world.concepts if concept.tint] or names
    colours = list(COLOURS)
    prompts = [f"a {names[n % len(names)]} and a {names[(n + 7) % len(names)]}" for n in range(16)]
    prompts = [f"{prompt} on a {draw.choice(colours)} background" for prompt in prompts]
    for number in range(8):
        thing = Thing(names[(3 * number) % len(names)])
        scene = Scene((thing,), Background(draw.choice(colours)), world.styles[number % len(world.styles)])
        prompts.append(caption(scene, Telling((0,), style=True)))
    more = ("striped blue", "dotted red", "checked green", "gradient purple")
    for number in range(8):
        name = tinted[(3 * number) % len(tinted)]
        ground = f"{more[number // 2]} background" if number < 6 else "blue background with many snowflakes"
        prompts.append(f"a {('green', 'blue', 'red', 'yellow')[number % 4]} {name} on a {ground}")
    return prompts
