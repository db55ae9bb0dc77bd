"""The embedded judges as energies need them: differentiable in the images, and asked in words.

`emoji-clip` says how well an image fits a text, the classifier which of the world's concepts and styles it shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTokenizer

from sfumato.emoji import WEIGHTS
from sfumato.emoji.dual_encoder import DualEncoder, load_dual_encoder
from sfumato.emoji.judges import Classifier, load_classifier
from sfumato.emoji.training.sampling import tokenize
from sfumato.emoji.world import STYLES
from sfumato.models.silence import quiet

SIDE = 64
"""Side of the images that both were trained on."""


class EmojiClip:
    """The dual encoder `emoji-clip`, as `sfumato.judges.encoders.DualEncoder` asks."""

    name = "emoji-clip"

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to unit vectors, (batch, 128). Differentiable."""
        return _dual_encoder().to(pixels.device).encode_image(at_side(pixels.float()))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors, (texts, 128)."""
        encoder = _dual_encoder()
        return encoder.encode_ids(tokenize(_tokenizer(), texts).to(encoder.log_scale.device))


class EmojiClassifier:
    """The classifier's answer for one kind of label, concept or style.

    Args:
        label: A concept, such as "dog face", or a style, such as "noto"; see `labels`.

    Attributes:
        index: Place of the label in the logits.
    """

    def __init__(self, label: str) -> None:
        styles = list(STYLES)
        self.head = 1 if label in styles else 0
        self.index = (styles if self.head else concepts()).index(label)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to logits, (batch, classes). Differentiable."""
        logits: Tensor = _classifier().to(pixels.device)(at_side(pixels.float()))[self.head]
        return logits


def classifier_features(pixels: Tensor) -> Tensor:
    """What the classifier sees before it forgets places, (batch, 160, height / 16, width / 16). Differentiable."""
    features: Tensor = _classifier().to(pixels.device).trunk.stages(at_side(pixels.float()))
    return features


def labels() -> list[str]:
    """What `EmojiClassifier` can be asked for."""
    return [*concepts(), *STYLES]


@cache
def concepts() -> list[str]:
    """The concepts in the order of the classifier's logits."""
    with safe_open(WEIGHTS / "classifier.safetensors", "pt") as file:
        names: list[str] = json.loads(file.metadata()["concepts"])
    return names


def at_side(pixels: Tensor) -> Tensor:
    """Pixels at the judges' size."""
    if pixels.shape[-2:] == (SIDE, SIDE):
        return pixels
    return F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True)


@cache
def _dual_encoder() -> DualEncoder:
    with quiet():
        return load_dual_encoder(WEIGHTS / "emoji-clip.safetensors").requires_grad_(False)


@cache
def _classifier() -> Classifier:
    return load_classifier(WEIGHTS / "classifier.safetensors")[0].requires_grad_(False)


@cache
def _tokenizer() -> CLIPTokenizer:
    with quiet():
        return CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"))
