"""Fourth stage of training: `emoji-clip`, the text-image dual encoder, on scenes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.emoji.dual_encoder import DualEncoder
from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_captions import Telling, Word, caption_words, joined, sample_telling
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import Scene
from sfumato.emoji.training.judging import blur_and_noise, save_judge
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop
from sfumato.emoji.training.networks import MAX_TOKENS
from sfumato.emoji.training.tokenizer import Encoder


def train_dual_encoder(atlas: Atlas, tokenizer: Any, settings: Settings, out: Path) -> DualEncoder:
    """Trains the dual encoder by contrast within a batch and writes `emoji-clip.safetensors`.

    Args:
        atlas: The drawings of the world; combinations that are held out are not trained on.
        tokenizer: The model's.
        settings: See `Settings`.
        out: Folder to write to.

    Returns:
        The averaged dual encoder.
    """
    torch.manual_seed(settings.seed + 77)
    world, encoder, draw = atlas.world, Encoder(tokenizer), random.Random(settings.seed + 78)
    unseen = [sample_scene(world, draw) for _ in range(200)]
    unseen_pixels, _ = render(unseen, atlas)
    model = DualEncoder(len(tokenizer), tokenizer.eos_token_id, MAX_TOKENS).to(settings.device)

    def loss_of_batch(worker: Worker) -> Tensor:
        worker.model.train()
        scenes = [sample_scene(world, worker.random) for _ in range(worker.batch)]
        told = [caption_words(scene, sample_telling(scene, worker.random), world) for scene in scenes]
        pixels, ids = blur_and_noise(render(scenes, atlas)[0]), encoder.encode(told, 1, ())[0]
        network = worker.model
        assert isinstance(network, DualEncoder)
        with autocast(settings.device):
            images, texts = network.encode_image(pixels), network.encode_ids(ids.to(settings.device))
        logits = network.log_scale.clamp(max=4.6).exp() * images @ texts.T
        own = torch.arange(len(scenes), device=settings.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, DualEncoder)
        running = {key: value for key, value in model.state_dict().items() if "running" in key}
        average.load_state_dict({**average.state_dict(), **running})
        return {"retrieval_top1": retrieval(average, encoder, unseen_pixels, unseen)}

    average = train_loop("clip", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, DualEncoder)
    facts = {"vocabulary": len(tokenizer), "end": tokenizer.eos_token_id, "tokens": MAX_TOKENS}
    metadata = {name: json.dumps(value) for name, value in facts.items()}
    save_judge(average, out / "emoji-clip.safetensors", metadata)
    return average


def full_caption(scene: Scene) -> list[Word]:
    """The caption that tells all there are words for."""
    everything = Telling(tuple(range(len(scene.things))), sizes=True, relation=scene.relation, style=True)
    return caption_words(scene, everything)


@torch.no_grad()
def retrieval(model: DualEncoder, encoder: Encoder, pixels: Tensor, scenes: Sequence[Scene]) -> float:
    """Share of full captions whose most similar image has the caption (images may share one)."""
    told = [full_caption(scene) for scene in scenes]
    texts = [joined(words) for words in told]
    images = torch.cat([model.encode_image(batch) for batch in pixels.split(50)])
    best = (model.encode_ids(encoder.encode(told, 1, ())[0].to(images.device)) @ images.T).argmax(1).tolist()
    hits = sum(bool(texts[row] == text) for row, text in zip(best, texts, strict=True))
    return hits / len(texts)
