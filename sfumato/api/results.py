"""The results of the verbs: images, the recipe that made them, their cost, and the reconstruction with its PSNR."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sfumato import checks
from sfumato.api.cost import Cost
from sfumato.api.request import WHITE
from sfumato.conditions.align import positions_in
from sfumato.conditions.words import Piece
from sfumato.errors import UsageError
from sfumato.files import at_home
from sfumato.images import Easing, Pace, as_png, check_writable, save_image, save_movie
from sfumato.inversions.result import Inversion
from sfumato.morphs.spacings.base import spread_of

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class EditCandidate:
    """One of several edits that a method tried before it chose; see `sfumato.edits.result.LatentCandidate`."""

    method: str
    options: Mapping[str, Any]
    agreement: float
    change: float
    image: Image.Image


@dataclass(frozen=True)
class EditResult:
    """Edited images of one source.

    Attributes:
        images: One image for each target prompt; transparent (RGBA) where the image is, and its alpha was asked for.
        source: The source image as the model saw it; of an edit without an image, the generated source.
        reconstruction: The source branch of the run, decoded.
        recipe: Everything needed to repeat it; goes into saved files.
        cost: Network evaluations, seconds, peak memory.
        reconstruction_psnr: Of the reconstruction against the source, dB; infinite for a generated source, NaN where
            the source is not known: an inversion was given that holds neither its image nor its trajectory.
        ceiling_psnr: Of the autoencoder alone, dB: no reconstruction can be much better. NaN where the image itself is
            not known.
        inversion: What led back to the source; pass it as `inverted=` to edit again without inverting again.
        notes: What was done to the image, and warnings.
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
    tried: tuple[EditCandidate, ...] = ()
    distances: Tensor | None = None
    _pieces: tuple[tuple[Piece, ...], ...] = field(default=(), repr=False)  # of the source prompt and each target

    @property
    def image(self) -> Image.Image:
        """The first (usually only) edited image."""
        return self.images[0]

    def _repr_png_(self) -> bytes:
        return as_png(self.images)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the first edited image with its recipe; further targets go beside it as NAME-2.png and so on.

        Raises:
            ImageError: The path cannot be written.
        """
        return save_all(self.images, path, self.recipe)

    def attention_map(self, word: str, *, target: int | None = 0) -> Tensor:
        """Attention to a word, (height, width), as a share of the map's maximum, in [0, 1]; weights below 0 show as 0.

        Args:
            word: A word or phrase of the prompt.
            target: Which target prompt; None: the source.

        Raises:
            UsageError: The word is not in that prompt, or the method keeps no maps.
        """
        checks.text("word", word)
        if self.maps is None or not self._pieces:
            raise UsageError(f"{self.recipe['method']} keeps no attention maps: use prompt-to-prompt, which does")
        prompts = [self.recipe["source_prompt"], *self.recipe["target_prompts"]]
        branch = 0 if target is None else 1 + checks.whole("target", target, low=0, high=len(prompts) - 2)
        known = self.maps.shape[-1]
        tokens = [k for k in positions_in(self._pieces[branch], prompts[branch], word) if k < known]
        if not tokens:
            raise UsageError(f"{word!r} stands where attention does not see it: move it further to the front")
        heat = self.maps[branch][..., tokens].sum(dim=-1).clamp(min=0)
        return heat / heat.max().clamp(min=1e-12)


@dataclass(frozen=True)
class GenerateResult:
    """Images drawn from text, and what to know of how the text was read."""

    images: tuple[Image.Image, ...]
    recipe: Mapping[str, Any]
    cost: Cost
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The first image."""
        return self.images[0]

    def _repr_png_(self) -> bytes:
        return as_png(self.images)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the first image with its recipe; further ones go beside it as NAME-2.png and so on."""
        return save_all(self.images, path, self.recipe)


@dataclass(frozen=True)
class InvertResult:
    """An inverted image, and its reconstruction.

    Attributes:
        inversion: Save it, or pass it to `edit(..., inverted=...)`.
        source, reconstruction: The image as the model saw it, and as it is reconstructed at guidance scale 1.
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

    def _repr_png_(self) -> bytes:
        return as_png([self.source, self.reconstruction])


@dataclass(frozen=True)
class MorphResult:
    """Frames from one image to another, or along a path through several.

    Attributes:
        images: The frames, the ends among them.
        weights: Where each was taken: 0 = first image, 1 = second, 2 = third ...
        distances: From each frame to the next.
        even_distances: The same at even weights, where they were measured on the way, else None.
        sources: The images as the model saw them.
        endpoint_psnr: Of the frame that stands for each source image against it, dB.
        ceiling_psnr: Of the autoencoder alone on each, dB: no end can be much better where frames are decoded latents;
            infinite where nothing was encoded.
        recipe: Everything needed to repeat it; goes into saved files.
        cost: Network evaluations, seconds, peak memory.
        notes: What was done to the images, what the method and the spacing say, and warnings.
    """

    images: tuple[Image.Image, ...]
    weights: tuple[float, ...]
    distances: tuple[float, ...]
    even_distances: tuple[float, ...] | None
    sources: tuple[Image.Image, ...]
    endpoint_psnr: tuple[float, ...]
    ceiling_psnr: tuple[float, ...]
    recipe: Mapping[str, Any]
    cost: Cost
    notes: tuple[str, ...] = ()

    @property
    def spread(self) -> float:
        """Largest distance of consecutive frames over their mean, at least 1; 1 is perfectly even."""
        return spread_of(self.distances)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float = 12.0,
        hold: float | Sequence[float] = 0.5,
        bounce: bool = False,
        scale: int | None = None,
        easing: Easing = "linear",
        inbetweens: int = 0,
    ) -> Path:
        """Writes .webp, .mp4, .webm, .mov, .gif or .apng by the name's ending, or a folder of PNGs without one.

        A circle (the last image is the first one again) is played round and round: its last frame, which is the first
        one, is left out of a movie.

        Args:
            path: Where to; written whole or not at all, with the recipe.
            fps: Frames a second.
            hold: Seconds that an image stands still, the images on the way too: one number, or one for each image.
            bounce: There and back again.
            scale: Whole factor to enlarge by; None: 1 in a folder, and what makes small images watchable in a movie.
            easing: "linear": at one speed; "smooth": from rest to rest between images.
            inbetweens: Frames that ffmpeg draws between each two by the movement that it sees, in [0, 31].

        Raises:
            ImageError: The path cannot be written, the disk is full, ffmpeg failed.
            UsageError: An argument is out of range.
        """
        places = [k for k, weight in enumerate(self.weights) if weight == round(weight)]
        origins = [origin["sha256"] for origin in self.recipe.get("images", ())]
        return save_movie(
            self.images,
            path,
            pace=Pace(fps, hold, bounce, easing),
            scale=scale,
            recipe=self.recipe,
            stops=places,
            closed=len(origins) > 1 and origins[0] == origins[-1],
            inbetweens=inbetweens,
        )

    def _repr_png_(self) -> bytes:
        return as_png([self.film_strip()])

    def film_strip(self, *, columns: int = 8, tile: int = 128) -> Image.Image:
        """All frames on one sheet, each with its weight."""
        from sfumato.images.film_strip import film_strip

        return film_strip(self.images, [f"{weight:.3f}" for weight in self.weights], columns=columns, tile=tile)

    def plot(self) -> Image.Image:
        """Distances of consecutive frames as an image, those at even weights beside them where they were measured."""
        from sfumato.images.film_strip import step_plot

        series = {} if self.even_distances is None else {"even weights": self.even_distances}
        series[f"spacing {self.recipe['spacing']}"] = self.distances
        return step_plot(series, measure=self.recipe["distance"])


def numbered_paths(path: str | os.PathLike[str], count: int) -> list[Path]:
    """Where `count` images go: the path itself, then NAME-2, NAME-3, ... beside it."""
    first = at_home(path)
    return [first, *(first.parent / f"{first.stem}-{k}{first.suffix}" for k in range(2, count + 1))]


def save_all(images: Sequence[Image.Image], path: str | os.PathLike[str], recipe: Mapping[str, Any]) -> Path:
    """Writes all images with their recipe, after checking that every one can be written; returns the first path."""
    paths = numbered_paths(path, len(images))
    for target in paths:
        check_writable(target)
    for image, target in zip(images, paths, strict=True):
        save_image(image, target, recipe=recipe, background=tuple(recipe.get("background", WHITE)))
    return paths[0]
