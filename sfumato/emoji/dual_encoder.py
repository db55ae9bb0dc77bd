"""`emoji-clip`, a small text-image dual encoder: the offline stand-in for CLIP.

Cosine similarity of its two embeddings says how well an image fits a caption; differences of embeddings give
directional similarity; the features of its image trunk give a perceptual distance.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sfumato.emoji.judges import Trunk, blur_and_noise, save_judge
from sfumato.emoji.networks import MAX_TOKENS
from sfumato.emoji.pool import build_pool
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop
from sfumato.emoji.training.sampling import tokenize
from sfumato.emoji.training.sheets import to_pixels
from sfumato.emoji.world import Concept, caption, sample_caption

WIDTH = 128
TRUNK = (24, 48, 96, 160)


class DualEncoder(nn.Module):
    """Embeds images and captions into one space of 128 dimensions.

    Args:
        vocabulary: Size of the tokenizer's vocabulary.
        end: Id of the token that ends a caption and pads it.
        tokens: Length of captions in tokens.
    """

    def __init__(self, vocabulary: int, end: int, tokens: int = MAX_TOKENS) -> None:
        super().__init__()
        self.image = Trunk(TRUNK)
        self.image_projection = nn.Linear(self.image.width, WIDTH)
        self.end = end
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokens,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
        self.text_projection = nn.Linear(WIDTH, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (batch, 3, size, size) in [-1, 1] to unit vectors (batch, 128)."""
        return functional.normalize(self.image_projection(self.image(pixels)).float(), dim=-1)

    def encode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (batch, 32) to unit vectors (batch, 128), read at the first end token."""
        last = (ids == self.end).int().argmax(dim=1)
        hidden_states = self.text(ids)[0][torch.arange(len(ids), device=ids.device), last]
        return functional.normalize(self.text_projection(hidden_states).float(), dim=-1)


def train_dual_encoder(
    concepts: Sequence[Concept], size: int, settings: Settings, out: Path, *, per_pair: int = 16
) -> DualEncoder:
    """Trains the dual encoder by contrast within a batch and writes `emoji-clip.safetensors`.

    Rows that show the same concept, style, background and placement count as equally right.

    Args:
        concepts: The world's concepts; their held-out pairs are left out.
        size: Side of the images in pixels.
        settings: See `Settings`.
        out: Folder of the weights; its tokenizer is used.
        per_pair: Renderings of each (concept, style).

    Returns:
        The averaged dual encoder.
    """
    torch.manual_seed(settings.seed + 77)
    tokenizer: Any = CLIPTokenizer.from_pretrained(str(out / "tokenizer"))
    pool = build_pool(concepts, per_pair, size=size, seed=settings.seed + 2)
    unseen = build_pool(concepts, 4, size=size, seed=settings.seed + 78)
    shuffled = random.Random(0).sample(range(len(unseen)), len(unseen))[:500]
    images, scenes = unseen.images()[shuffled], [unseen.scenes[row] for row in shuffled]
    model = DualEncoder(len(tokenizer), tokenizer.eos_token_id).to(settings.device)

    def loss_of_batch(worker: Worker) -> torch.Tensor:
        worker.model.train()
        images, scenes = pool.draw([worker.random.randrange(len(pool)) for _ in range(worker.batch)], worker.random)
        full = [caption(scene) for scene in scenes]
        ids = tokenize(tokenizer, [sample_caption(scene, worker.random) for scene in scenes]).to(settings.device)
        pixels = blur_and_noise(to_pixels(images)).to(settings.device)
        network = worker.model
        assert isinstance(network, DualEncoder)
        with autocast(settings.device):
            shown, said = network.encode_image(pixels), network.encode_ids(ids)
        logits = network.log_scale.clamp(max=4.6).exp() * shown @ said.T
        same = torch.tensor([[one == other for other in full] for one in full], device=settings.device).float()
        target = same / same.sum(1, keepdim=True)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, DualEncoder)
        running = {key: value for key, value in model.state_dict().items() if "running" in key}
        average.load_state_dict({**average.state_dict(), **running})
        return {"retrieval_top1": retrieval(average, tokenizer, images, scenes, settings.device)}

    average = train_loop("clip", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, DualEncoder)
    metadata = {"vocabulary": json.dumps(len(tokenizer)), "end": json.dumps(tokenizer.eos_token_id)}
    save_judge(average, out / "emoji-clip.safetensors", metadata)
    return average


@torch.no_grad()
def retrieval(model: DualEncoder, tokenizer: Any, images: Any, scenes: Sequence[Any], device: str = "cpu") -> float:
    """Share of full captions whose most similar image has the caption (images may share one)."""
    texts = [caption(scene) for scene in scenes]
    shown = model.encode_image(to_pixels(images).to(device))
    said = model.encode_ids(tokenize(tokenizer, texts).to(device))
    best = (said @ shown.T).argmax(1).tolist()
    hits = sum(bool(texts[row] == text) for row, text in zip(best, texts, strict=True))
    return hits / len(texts)


def load_dual_encoder(path: Path) -> DualEncoder:
    """Reads `emoji-clip.safetensors`, in float32 and evaluation mode."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tokens = json.loads(metadata.get("tokens", str(MAX_TOKENS)))
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are read
        model = DualEncoder(json.loads(metadata["vocabulary"]), json.loads(metadata["end"]), tokens)
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    )
    return model.eval()
