"""What the public drivers share: drawn noise, a stamped inversion, how well a picture came back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.inversion.result import Inversion, content_key
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.picture import Picture
from sfumato.registry import INVERSIONS

if TYPE_CHECKING:
    from PIL import Image

LOW_PSNR = 20.0
"""A source that comes back worse than this, dB, is a warning."""


def drawn_noise(model: Model, images: int, generator: torch.Generator, size: tuple[int, int] | None) -> Tensor:
    """Standard normal latents, drawn on the CPU so that a seed means the same on every device."""
    shape = model.latent_shape((size[1], size[0]) if size else None)
    return torch.randn((images, *shape), generator=generator)


def inverted_picture(
    model: Model, clean: Tensor, picture: Picture, name: str, prompt: str, *, encode_steps: int = 0, **options: Any
) -> Inversion:
    """Runs an inversion and stamps it with prompt, guidance and content key, to which the refinement belongs."""
    found: Inversion = INVERSIONS[name].function(model, clean, model.encode_prompt(prompt), **options)
    plain = {key: value for key, value in options.items() if isinstance(value, int | float | str | bool | None)}
    plain |= {"encode_steps": encode_steps} if encode_steps else {}
    key = content_key(picture.fitted.image.tobytes(), model.revision, {"method": name, "prompt": prompt, **plain})
    return replace(
        found,
        prompt=prompt,
        guidance_scale=options["guidance_scale"],
        model=model.revision,
        picture=picture.origin["sha256"],
        key=key,
    )


def image_psnr(image: Image.Image, reference: Image.Image) -> float:
    """PSNR of two PIL pictures of one size, dB."""
    return psnr(np.asarray(image), np.asarray(reference), data_range=255)


def low_psnr_note(source_psnr: float, ceiling_psnr: float, guidance: float) -> str:
    """Words for a source that does not come back, with what to try."""
    if ceiling_psnr < LOW_PSNR + 1.0:
        remedy = (
            f"the model's autoencoder only reaches {ceiling_psnr:.1f} dB here: use a larger picture or another model"
        )
    elif guidance > 1.0:
        remedy = f"source_guidance_scale={guidance:g} makes the replay drift: use 1"
    else:
        remedy = "describe the picture better in the source prompt, or use more steps"
    return f"the source picture does not come back (PSNR {source_psnr:.1f} dB): {remedy}"
