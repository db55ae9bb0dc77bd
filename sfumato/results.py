"""What the drivers hand back: pictures, the recipe that made them, the bill, and how well the source came back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sfumato.attention.align import token_indices
from sfumato.cost import Cost
from sfumato.errors import UsageError
from sfumato.images import check_writable, save_image
from sfumato.inversion.result import Inversion
from sfumato.models.base import Model

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class TriedEdit:
    """One of several edits that a method tried before it chose; see `edit.result.Candidate`."""

    method: str
    options: Mapping[str, Any]
    agreement: float
    change: float
    image: Image.Image


@dataclass(frozen=True)
class EditResult:
    """Edited pictures of one source.

    Attributes:
        images: One picture for each target prompt.
        source: The source picture as the model saw it; of an edit without a picture, the generated source.
        reconstruction: The source branch of the run, decoded.
        recipe: Everything needed to repeat it; goes into saved files.
        cost: Network evaluations, seconds, peak memory.
        reconstruction_psnr: Of the reconstruction against the source, dB; infinite for a generated source.
        ceiling_psnr: Of the autoencoder alone, dB: no reconstruction can be much better.
        inversion: What led back to the source; pass it as `inverted=` to edit again without inverting again.
        notes: What was done to the picture, and warnings.
        maps: Mean cross-attention, (branch, height, width, token), or None.
        tried: All edits that were tried, where the method chooses among several.
        distances: How far each edit's latents were from the source's after each executed step, (steps, edit), where the
            method measures it, or None.
    """

    images: tuple[Image.Image, ...]
    source: Image.Image
    reconstruction: Image.Image
    recipe: Mapping[str, Any]
    cost: Cost
    reconstruction_psnr: float
    ceiling_psnr: float
    inversion: Inversion
    notes: tuple[str, ...] = ()
    maps: Tensor | None = None
    tried: tuple[TriedEdit, ...] = ()
    distances: Tensor | None = None
    _model: Model | None = field(default=None, repr=False)

    @property
    def image(self) -> Image.Image:
        """The first (usually only) edited picture."""
        return self.images[0]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the first edited picture with its recipe; further targets go beside it as NAME-2.png and so on.

        Raises:
            ImageError: The path cannot be written.
        """
        return save_all(self.images, path, self.recipe)

    def attention_map(self, word: str, *, target: int | None = 0) -> Tensor:
        """Where a word looks, (height, width), as a share of the map's maximum, in [0, 1]; weights below 0 show as 0.

        Args:
            word: A word or phrase of the prompt.
            target: Which target prompt; None: the source.

        Raises:
            UsageError: The word is not in that prompt, or the method keeps no maps.
        """
        if self.maps is None or self._model is None:
            raise UsageError(f"{self.recipe['method']} keeps no attention maps")
        prompts = [self.recipe["source_prompt"], *self.recipe["target_prompts"]]
        branch = 0 if target is None else target + 1
        if not 0 <= branch < len(prompts):
            raise UsageError(f"target must be in [0, {len(prompts) - 2}], got {target}")
        tokens = token_indices(self._model.tokenizer, prompts[branch], word)
        heat = self.maps[branch][..., tokens].sum(dim=-1).clamp(min=0)
        return heat / heat.max().clamp(min=1e-12)


@dataclass(frozen=True)
class GenerateResult:
    """Pictures drawn from text."""

    images: tuple[Image.Image, ...]
    recipe: Mapping[str, Any]
    cost: Cost

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the first picture with its recipe; further ones go beside it as NAME-2.png and so on."""
        return save_all(self.images, path, self.recipe)


@dataclass(frozen=True)
class InvertResult:
    """An inverted picture, and how well it comes back.

    Attributes:
        inversion: Save it, or pass it to `edit(..., inverted=...)`.
        source, reconstruction: The picture as the model saw it, and as it comes back at guidance 1.
        reconstruction_psnr, ceiling_psnr: dB, see `EditResult`.
    """

    inversion: Inversion
    source: Image.Image
    reconstruction: Image.Image
    recipe: Mapping[str, Any]
    cost: Cost
    reconstruction_psnr: float
    ceiling_psnr: float
    notes: tuple[str, ...] = ()


def numbered_paths(path: str | os.PathLike[str], count: int) -> list[Path]:
    """Where `count` pictures go: the path itself, then NAME-2, NAME-3, ... beside it."""
    first = Path(path)
    return [first, *(first.with_stem(f"{first.stem}-{k}") for k in range(2, count + 1))]


def save_all(images: Sequence[Image.Image], path: str | os.PathLike[str], recipe: Mapping[str, Any]) -> Path:
    """Writes all pictures with their recipe, after checking that every one can be written; returns the first path."""
    paths = numbered_paths(path, len(images))
    for target in paths:
        check_writable(target)
    for image, target in zip(images, paths, strict=True):
        save_image(image, target, recipe=recipe)
    return paths[0]
