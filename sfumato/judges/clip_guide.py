"""CLIP as an energy needs it: differentiable in the images. For measuring, see `judges.ClipJudge`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.judges.clip import CLIP_MEAN, CLIP_STD, ClipJudge, _features, load_clip


class ClipGuide(ClipJudge):
    """A CLIP model whose image side keeps the gradient, as `sfumato.judges.encoders.DualEncoder` asks.

    Its images are resized by torch's antialiased bicubic filter and not rounded to 8 bits, which Pillow and
    `ClipJudge` do: features agree nearly, not exactly.
    """

    @classmethod
    def load(cls, name: str | os.PathLike[str], *, device: str = "cpu") -> ClipGuide:
        """Loads one; arguments and errors as `load_clip`."""
        judge = load_clip(name, device=device)
        return cls(judge._model, judge._tokenizer, judge.name)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to features, (batch, dim), of any length."""
        height, width = pixels.shape[-2:]
        ratio = self.side / min(height, width)
        size = [max(self.side, int(ratio * length)) for length in (height, width)]
        resized = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        middle = resized[..., top : top + self.side, left : left + self.side]
        mean, std = (middle.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (CLIP_MEAN, CLIP_STD))
        inputs = ((middle + 1) / 2 - mean) / std
        return _features(self._model.get_image_features(pixel_values=inputs.to(self._model.device)))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to features, (texts, dim)."""
        return self.text_features(texts)
