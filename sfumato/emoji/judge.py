"""The embedded judges as energies need them: differentiable in the images, and asked in words.

`emoji-clip` says how well an image fits a text, the judge of scenes which of the world's concepts and styles it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTokenizer

from sfumato.emoji import WEIGHTS
from sfumato.emoji.dual_encoder import DualEncoder, load_dual_encoder
from sfumato.emoji.scene_judge import SceneJudge, load_scene_judge
from sfumato.emoji.scenes import SIZE
from sfumato.models.silence import quiet


class EmojiClip:
    """The dual encoder `emoji-clip`, as `sfumato.judges.encoders.DualEncoder` asks."""

    name = "emoji-clip"

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to unit vectors, (batch, 128). Differentiable."""
        return shipped_encoder().to(pixels.device).encode_image(at_size(pixels.float()))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors, (texts, 128)."""
        encoder, tokenizer = shipped_encoder(), _tokenizer()
        ids = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return encoder.encode_ids(ids.to(encoder.log_scale.device))


class EmojiClassifier:
    """The judge's answer for one kind of label, concept or style.

    Args:
        label: A concept, such as "fox", or a style, such as "noto"; see `labels`.

    Attributes:
        index: Place of the label in the logits.
    """

    def __init__(self, label: str) -> None:
        judge = shipped_judge()
        self._of_style = label in judge.world.styles
        self.index = (list(judge.world.styles) if self._of_style else judge.names).index(label)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to logits, (batch, classes). Differentiable.

        Of concepts they are the logarithms of how much of the image is named after each.
        """
        cells, _, style, _, _, _ = shipped_judge().to(pixels.device)(at_size(pixels.float()))
        if self._of_style:
            return style  # type: ignore[no-any-return]
        named: Tensor = cells.log_softmax(1)[:, :-1]
        return named.flatten(2).logsumexp(2)


def judge_features(pixels: Tensor) -> Tensor:
    """What the judge sees in each place, (batch, 128, 16, 16). Differentiable."""
    features: Tensor = shipped_judge().to(pixels.device).trunk(at_size(pixels.float()))
    return features


def labels() -> list[str]:
    """What `EmojiClassifier` can be asked for."""
    judge = shipped_judge()
    return [*judge.names, *judge.world.styles]


def at_size(pixels: Tensor) -> Tensor:
    """Pixels at the size that the judges were trained on."""
    if pixels.shape[-2:] == (SIZE, SIZE):
        return pixels
    return F.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", antialias=True)


@cache
def shipped_encoder() -> DualEncoder:
    """The shipped dual encoder; its weights take no gradient."""
    with quiet():
        return load_dual_encoder(WEIGHTS / "emoji-clip.safetensors").requires_grad_(False)


@cache
def shipped_judge() -> SceneJudge:
    """The shipped judge of scenes; its weights take no gradient."""
    return load_scene_judge(WEIGHTS / "judge.safetensors").requires_grad_(False)


@cache
def _tokenizer() -> CLIPTokenizer:
    with quiet():
        return CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"))
