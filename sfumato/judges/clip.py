"""Networks that judge images: CLIP for images and texts, DINO's keys for layout. By hub name or local folder.

They are loaded as safetensors only, and whole: a judge with a weight missing is refused, because a network filled up
with random numbers would still give a number. Nothing of the hub is asked where the folder or the cache has the files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.errors import ModelError, UsageError
from sfumato.images.pixels import to_images
from sfumato.metrics.values import checked_pixels
from sfumato.models import hub
from sfumato.models.folder import check_part, laid_out
from sfumato.models.silence import quiet
from sfumato.models.vocabulary import check_vocabulary

CLIP: Final = "openai/clip-vit-large-patch14"
"""CLIP of PIE-Bench's tables; CycleDiffusion's are of openai/clip-vit-base-patch32."""
DINO: Final = "facebook/dino-vitb8"

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


class ClipJudge:
    """A CLIP model, for `sfumato.metrics.text_agreement` and its kin.

    Attributes:
        name: What it was loaded from; reports give it beside every value.
        side: Side in pixels of the images that the network sees.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.name, self.side = name, int(model.config.vision_config.image_size)
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer

    @torch.no_grad()
    def image_features(self, pixels: Tensor) -> Tensor:
        """Gives features of images.

        The images are rounded to 8 bits, the short side is resized with Pillow's bicubic filter and the middle is cut
        out, as OpenAI's preprocessing does.

        Args:
            pixels: In [-1, 1], (batch, 3, height, width).

        Returns:
            (batch, dim), not normalised, on the model's device.

        Raises:
            ValueError: The pixels are no floats in [-1, 1] of that shape.
        """
        inputs = clip_input(checked_pixels(pixels), self.side).to(self._model.device)
        return _features(self._model.get_image_features(pixel_values=inputs))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Gives features of texts, (batch, dim), not normalised; what passes the 77 tokens is cut off.

        Raises:
            UsageError: There are no texts, or a single string was given.
        """
        if isinstance(texts, str) or not texts:
            raise UsageError(f"texts must be a list of one string at least, got {texts!r}")
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self._model.device)
        return _features(self._model.get_text_features(**tokens))


class DinoKeys:
    """The keys of the last self-attention of a vision transformer, for `sfumato.metrics.structure_distance`.

    Attributes:
        name: What it was loaded from.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.name, self._model = name, model.eval().requires_grad_(False)
        self._keys = _last_keys(model)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Normalised images (batch, 3, height, width) to keys, (batch, tokens, dim), the class token first.

        The heads lie side by side. Other sizes than the network's own have their positions interpolated.
        """
        found: list[Tensor] = []
        handle = self._keys.register_forward_hook(lambda module, arguments, output: found.append(output))
        try:
            self._model(inputs.to(self._model.device), interpolate_pos_encoding=True)
        finally:
            handle.remove()
        return found[-1]


def load_clip(
    name: str | os.PathLike[str] = CLIP, *, revision: str | None = None, device: str = "cpu", cached: bool = False
) -> ClipJudge:
    """Loads a CLIP model.

    Args:
        name: Hub name, or a local folder with configuration, tokenizer and `model.safetensors`.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.
        cached: Take what is on this computer; the hub is not asked.

    Raises:
        ModelError: It is not there, incomplete, only there as a pickle, or no CLIP model.
    """
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = _load(CLIPModel, name, revision, cached, tokenizer=CLIPTokenizer)
    return ClipJudge(model.to(device), tokenizer, os.fspath(name))


def load_dino(
    name: str | os.PathLike[str] = DINO, *, revision: str | None = None, device: str = "cpu", cached: bool = False
) -> DinoKeys:
    """Loads a vision transformer whose keys `structure_distance` compares.

    Args:
        name: Hub name, or a local folder with configuration and `model.safetensors`. The published figures are of
            DINO ViT-B/8.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.
        cached: Take what is on this computer; the hub is not asked.

    Raises:
        ModelError: It is not there, incomplete, only there as a pickle, or no vision transformer.
    """
    from transformers import ViTModel

    model, _ = _load(ViTModel, name, revision, cached, add_pooling_layer=False)
    return DinoKeys(model.to(device), os.fspath(name))


def clip_input(pixels: Tensor, side: int) -> Tensor:
    """Pixels in [-1, 1] to CLIP's input, (batch, 3, side, side)."""
    from PIL import Image

    images = []
    for image in to_images(pixels):
        ratio = side / min(image.size)
        width, height = (max(side, int(ratio * length)) for length in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        images.append(np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32))
    values = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255  # (batch, 3, side, side)
    mean, std = (values.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (CLIP_MEAN, CLIP_STD))
    return (values - mean) / std


def _load(
    kind: Any, name: str | os.PathLike[str], revision: str | None, cached: bool, *, tokenizer: Any = None, **more: Any
) -> tuple[Any, Any]:
    """Gives the network, and the tokenizer if one is wanted."""
    where, words = os.fspath(name), None
    try:
        folder = Path(where).expanduser()
        if not folder.is_dir():
            folder = hub.fetch_network(where, revision=revision, cached=cached)
        part = check_part(folder)
        if tokenizer is not None:
            check_vocabulary(folder, part.configs)
        with quiet(), torch.random.fork_rng(devices=[]), laid_out({"": part}) as place:
            model, info = kind.from_pretrained(
                place, use_safetensors=True, local_files_only=True, output_loading_info=True, **more
            )
            if tokenizer is not None:
                words = tokenizer.from_pretrained(place, local_files_only=True)
    except (ModelError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"cannot load {where} as {kind.__name__}: {_first_line(error)}. Give a hub name that is in the cache or "
            "can be fetched (HF_HUB_OFFLINE must not be set), or a local folder with config.json and "
            "model.safetensors; a metric without its network is left out"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{where} is no complete {kind.__name__}: these weights are missing: {', '.join(missing[:3])}")
    return model, words


def _features(output: Any) -> Tensor:
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output  # transformers 4; 5
    return features


def _last_keys(model: nn.Module) -> nn.Module:
    """The projection to keys: `attention.attention.key` in transformers 4, `attention.k_proj` in 5."""
    named: list[nn.Module] = [
        module for name, module in model.named_modules() if name.rpartition(".")[2] in ("key", "k_proj")
    ]
    if not named:
        raise ModelError(f"{type(model).__name__} has no attention keys that are known by name")
    return named[-1]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
