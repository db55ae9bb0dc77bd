"""Masks for every method: the user's own or one from words, feathered, blended in latents and, when asked, in pixels.

1 where the edit may change the picture. Outside, latents are the source branch's after every step; with `pixels`, the
decoded picture is the source's own there, bit for bit. A method with a mask of its own takes this one in its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.attention.align import indicator
from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import AttentionControl
from sfumato.errors import ImageError, UsageError
from sfumato.inversion.result import Inversion
from sfumato.models.base import Model
from sfumato.picture import Picture
from sfumato.samplers.loop import Layout
from sfumato.schedules import Step, add_noise

if TYPE_CHECKING:
    from PIL import Image

MaskSource = Any
"""A path, bytes, PIL picture or array, as `load_image` takes them (white may change), or a tensor (H, W) in [0, 1]."""


@dataclass(frozen=True)
class KeepOutside:
    """An `on_step` hook: x* <- x + m (x* - x), with x the source branch.

    Attributes:
        mask: At latent size, (1, 1, height, width), in [0, 1].
        clean, noise: Latents of the source and the noise it would be brought to, (image, channels, height, width):
            where a run has no source branch, its latents at the step's level are made from these.
        targets: How many edited branches the run has.
    """

    mask: Tensor
    clean: Tensor
    noise: Tensor
    targets: int

    @property
    def inside(self) -> Tensor:
        """Where anything may change, (1, 1, height, width), 0 or 1: what a method with a mask of its own is given."""
        return (self.mask > 0.0).to(self.mask)

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        mask = self.mask.to(latents)
        if len(latents) == self.targets:
            source = self.clean.to(latents)[None]
            if step.t_prev >= 0:
                source = add_noise(source, self.noise.to(latents), step.alpha_bar_prev)
            return torch.lerp(source, latents, mask)
        source, edited = latents[:1], latents[1:]
        return torch.cat([source, torch.lerp(source, edited, mask)])


def read_mask(source: MaskSource, size: tuple[int, int]) -> Tensor:
    """A mask as (1, 1, H, W) in [0, 1].

    Args:
        source: Picture (white = may change) or tensor (H, W).
        size: (width, height) of the picture that it belongs to.

    Raises:
        ImageError: It cannot be read, has another size, or is black everywhere.
    """
    from sfumato.images import load_image

    if isinstance(source, Tensor):
        mask = source.detach().float().cpu().reshape(1, 1, *source.shape[-2:])
    else:
        grey = load_image(source).image.convert("L")
        mask = torch.tensor(list(grey.tobytes()), dtype=torch.float32).reshape(1, 1, grey.height, grey.width) / 255
    if (mask.shape[3], mask.shape[2]) != size:
        raise ImageError(
            f"the mask has {mask.shape[3]}x{mask.shape[2]} pixels, the picture {size[0]}x{size[1]}: they must agree"
        )
    if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0 or float(mask.max()) > 1:
        raise ImageError(f"mask values must be in [0, 1], got {float(mask.min()):g} to {float(mask.max()):g}")
    if float(mask.max()) == 0.0:
        raise ImageError("the mask is black everywhere, so nothing may change: paint white where the edit may show")
    return mask


@torch.no_grad()
def mask_from_words(
    model: Model,
    clean: Tensor,
    prompt: str,
    words: Sequence[str],
    *,
    threshold: float = 0.4,
    draws: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Where the words look in a picture, (1, 1, height, width) of the latents, 0 or 1.

    Mean cross-attention of the picture noised to levels in the middle of the schedule, where layout is decided. Costs
    4 evaluations a draw.

    Args:
        model: Any model with cross-attention on text.
        clean: Latents of the picture, (1, channels, height, width).
        prompt: What the picture shows.
        words: Words or phrases of the prompt.
        threshold: Share of the largest attention that counts as inside, in (0, 1).
        draws: Noises to average over.
        generator: Of these noises.

    Raises:
        UsageError: A word is not in the prompt.
    """
    row = indicator(model.tokenizer, prompt, words)
    size = (clean.shape[-2], clean.shape[-1])
    maps = CrossAttentionMaps().choose(model.attention_sites(size))
    control, condition = AttentionControl([maps]), model.encode_prompt(prompt)
    steps = model.schedule.steps(20)[6:14:2]
    with control.installed(model, Layout(("cond",), ("source",), 1, size)):
        for _ in range(draws):
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            for step in steps:
                control.at_step(step)
                model.predict(add_noise(clean, noise, step.alpha_bar), step.t, condition)
    heat = maps.average[0, ..., : len(row)] @ row.to(maps.average)  # (1, height, width)
    heat = F.interpolate(heat[None], size=size, mode="bilinear")
    low, high = heat.amin(), heat.amax()
    return ((heat - low) > threshold * (high - low)).float()


def to_latent_size(mask: Tensor, size: tuple[int, int], *, feather: float = 0.0) -> Tensor:
    """A mask at latent size, (1, 1, height, width): a latent may change when any pixel under it may."""
    small = F.adaptive_max_pool2d(mask, size)
    return small if feather == 0.0 else blurred(small, feather)


def blurred(mask: Tensor, radius: float) -> Tensor:
    """Gaussian blur of `radius` cells (its standard deviation), edges repeated, (1, 1, H, W)."""
    reach = max(1, round(3 * radius))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=mask.dtype) / radius) ** 2)
    line = line / line.sum()
    padded = F.pad(mask, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))


def paste(edited: Image.Image, source: Image.Image, mask: Tensor, *, feather: float = 0.0) -> Image.Image:
    """The edited picture inside the mask, the source outside; bit-identical to the source where the mask is 0.

    The feather runs inwards only, so that nothing outside the mask changes.

    Args:
        edited, source: PIL pictures of one size.
        mask: (1, 1, H, W) in [0, 1].
        feather: Width of the soft edge, pixels.
    """
    from PIL import Image

    weight = mask if feather == 0.0 else blurred(mask, feather / 2) * mask
    layer = Image.frombytes("L", source.size, bytes((weight[0, 0] * 255).round().to(torch.uint8).flatten().tolist()))
    return Image.composite(edited, source, layer)


@dataclass(frozen=True)
class Masking:
    """The mask of one edit: the user's own picture or words, and how it is applied.

    Attributes:
        mask: The user's, (1, 1, H, W), or None where words make it.
        words, threshold: See `mask_from_words`.
        feather: Width of the soft edge, pixels.
        pixels: Whether the result is pasted into the source.
        recipe: What a saved picture says of all this.
    """

    mask: Tensor | None
    words: tuple[str, ...]
    threshold: float
    feather: float
    pixels: bool
    recipe: dict[str, Any]

    @classmethod
    def read(
        cls,
        picture: Picture | None,
        mask: MaskSource | None,
        words: str | Sequence[str] | None,
        threshold: float,
        feather: float,
        pixels: bool,
    ) -> Masking | None:
        """Checks and reads what a user asked for; None where no mask is asked for.

        Raises:
            UsageError: Arguments that do not fit one another, or a number out of range.
            ImageError: The mask cannot be read or does not fit the picture.
        """
        if mask is None and words is None:
            if pixels or feather:
                raise UsageError("mask_pixels and mask_feather need a mask: give mask or mask_words")
            return None
        if picture is None:
            raise UsageError("a mask needs a picture: pass one, or use the method's own local options")
        if mask is not None and words is not None:
            raise UsageError("give mask or mask_words, not both")
        if not 0.0 < threshold < 1.0:
            raise UsageError(f"mask_threshold must be in (0, 1), got {threshold:g}")
        if not 0.0 <= feather <= min(picture.fitted.image.size):
            raise UsageError(f"mask_feather must be in [0, {min(picture.fitted.image.size)}] pixels, got {feather:g}")
        listed = (words,) if isinstance(words, str) else tuple(words or ())
        recipe = {
            "path": os.fspath(mask) if isinstance(mask, str | os.PathLike) else None,
            "words": list(listed),
            "threshold": threshold,
            "feather": feather,
            "pixels": pixels,
        }
        tensor = None if mask is None else read_mask(mask, picture.fitted.image.size)
        return cls(tensor, listed, threshold, feather, pixels, recipe)

    def check(self, model: Model, prompt: str) -> None:
        """Refuses words that are not in the prompt, with a UsageError, before the network runs."""
        if self.mask is None:
            indicator(model.tokenizer, prompt, self.words)

    def hook(
        self, model: Model, clean: Tensor, start: Inversion, prompt: str, targets: int, generator: torch.Generator
    ) -> KeepOutside:
        """The mask at latent size, as a hook of the run."""
        size = (clean.shape[-2], clean.shape[-1])
        if self.mask is not None:
            mask = to_latent_size(self.mask, size, feather=self.feather / model.vae_scale_factor)
        else:
            mask = mask_from_words(model, clean, prompt, self.words, threshold=self.threshold, generator=generator)
            mask = to_latent_size(mask.cpu(), size, feather=self.feather / model.vae_scale_factor)
        return KeepOutside(mask, clean, start.noise, targets)

    def paste(self, edited: Image.Image, source: Image.Image, keep: KeepOutside) -> Image.Image:
        """The edited picture pasted into the source, see `paste`."""
        mask = self.mask
        if mask is None:
            mask = F.interpolate((keep.mask > 0).float(), size=source.size[::-1], mode="nearest")
        return paste(edited, source, mask, feather=self.feather)
