"""`emoji-clip`, a small text-image dual encoder: the offline stand-in for CLIP.

Cosine similarity of its two embeddings says how well an image fits a caption; differences of embeddings give
directional similarity; the features of its image trunk give a perceptual distance.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from sfumato.emoji.trunk import Trunk

WIDTH = 128
TRUNK = (24, 48, 96, 160)


class DualEncoder(nn.Module):
    """Embeds images and captions into one space of 128 dimensions.

    Args:
        vocabulary: Size of the tokenizer's vocabulary.
        end: Id of the token that ends a caption and pads it.
        tokens: Length of captions in tokens.
    """

    def __init__(self, vocabulary: int, end: int, tokens: int) -> None:
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
        """Token ids (batch, tokens) to unit vectors (batch, 128), read at the first end token."""
        last = (ids == self.end).int().argmax(dim=1)
        hidden_states = self.text(ids)[0][torch.arange(len(ids), device=ids.device), last]
        return functional.normalize(self.text_projection(hidden_states).float(), dim=-1)


def load_dual_encoder(path: Path) -> DualEncoder:
    """Reads `emoji-clip.safetensors`, in float32 and evaluation mode."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are read
        model = DualEncoder(*(json.loads(metadata[name]) for name in ("vocabulary", "end", "tokens")))
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    )
    return model.eval()
