"""Dual encoders, such as CLIP: networks that score how well an image fits a text, for energies of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.base import Model

EMOJI_CLIP: Final = "emoji-clip"

ENCODER_HELP: Final = (
    "network that scores how well an image fits a text: emoji-clip, or a CLIP model as a local folder or hub id with"
    " safetensors weights; none: emoji-clip for the embedded model, others must name one"
)
"""Help of every option that names one."""


class DualEncoder(Protocol):
    """Images and texts in one space; their cosine says how well they fit.

    Attributes:
        name: What it was loaded from.
    """

    name: str

    def encode_image(self, pixels: Tensor, /) -> Tensor:
        """Pixels in [-1, 1], (batch, 3, height, width), to (batch, dim), differentiable."""

    def encode_text(self, texts: Sequence[str], /) -> Tensor:
        """Texts to (texts, dim)."""


def dual_encoder(model: Model, name: str | None = None) -> DualEncoder:
    """The encoder by name, on the model's device.

    Args:
        model: The model whose images it scores.
        name: "emoji-clip" (embedded), or a CLIP model: a local folder or a hub id with safetensors weights; None:
            emoji-clip for the embedded model.

    Raises:
        UsageError: No name, and the model is another.
        ModelError: There is no such CLIP model, or it is not complete.
    """
    name = name or model.encoder
    if name is None:
        raise UsageError(
            f"{model.name} has no encoder of its own: give encoder=FOLDER, a CLIP model (a local folder or a hub id"
            f" with safetensors weights); {EMOJI_CLIP} knows the embedded model's images only"
        )
    if name == EMOJI_CLIP:
        from sfumato.emoji.judge import EmojiClip

        return EmojiClip()
    from sfumato.judges.clip_guide import ClipGuide

    return ClipGuide.load(name, device=str(model.device))
