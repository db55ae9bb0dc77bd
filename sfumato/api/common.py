"""What the public verbs share: drawn noise, a stamped inversion, the reconstruction PSNR."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.api.arguments import check_model
from sfumato.api.source_image import SourceImage
from sfumato.edits.default_method import default_method
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Condition, Model
from sfumato.models.prompt_syntax import prompt_notes
from sfumato.sampling.draws import draw_noise
from sfumato.sampling.turns import taking_turns
from sfumato.tensorfile import content_key
from sfumato.watch import Watch

if TYPE_CHECKING:
    from PIL import Image

LOW_PSNR = 20.0
"""A reconstruction PSNR below this, dB, is a warning."""


def check_prompts(**prompts: str | Sequence[str] | None) -> list[str]:
    """Checks prompts, by the name of the argument, and warns of what was read otherwise than it may be meant.

    Raises:
        UsageError: A prompt says something that prompts cannot say here.
    """
    notes = prompt_notes(prompts)
    for note in notes:
        warn(note)
    return notes


def method_for(model: Model, method: str | None) -> str:
    """The method that was named, or the one that suits the model.

    Raises:
        UsageError: The model is none.
    """
    return default_method(check_model("model", model)) if method is None else method


def warn(text: str) -> None:
    """Warns at the line that called into `sfumato.api`."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("sfumato.api."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def following(seed: int, k: int) -> int:
    """The k-th seed after `seed`; after the largest comes 0."""
    found = seed + k if seed + k < 2**64 else seed + k - 2**64
    return found if found != -1 else 2**64 - 1  # the same to a generator, and no request for a random one


def seeded(seed: int, k: int = 0) -> torch.Generator:
    """A generator with the k-th seed after `seed`."""
    return torch.Generator().manual_seed(following(seed, k))


def drawn_noise(model: Model, generators: Sequence[torch.Generator], size: tuple[int, int] | None) -> Tensor:
    """Standard normal latents, an image a generator, drawn on the CPU so that a seed means the same everywhere."""
    shape = model.latent_shape((size[1], size[0]) if size else None)
    return draw_noise((len(generators), *shape), generators, torch.empty(0))


def inverted_image(
    model: Model,
    clean: Tensor,
    image: SourceImage,
    name: str,
    prompt: str,
    *,
    negative_prompt: str,
    guidance_scale: float,
    num_inference_steps: int,
    generator: torch.Generator,
    watch: Watch,
    seed: int,
    encode_steps: int = 0,
    **options: Any,
) -> Inversion:
    """Runs an inversion and stamps it with all that it was made from, which its content key is of, and the image."""
    condition, negative = source_conditions(model, prompt, negative_prompt)
    task = InversionTask(
        model, clean, condition, negative, guidance_scale, num_inference_steps, generator=generator, watch=watch
    )
    inversion = INVERSIONS[name].function(task, **options)
    plain: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
    plain |= {key: value for key, value in options.items() if isinstance(value, int | float | str | bool | None)}
    plain |= {"method": name, "prompt": prompt, "negative_prompt": negative_prompt, "seed": seed}
    plain |= {"encode_steps": encode_steps} if encode_steps else {}
    key = content_key(image.fitted.image.tobytes(), model.revision, plain)
    return replace(
        inversion,
        prompt=prompt,
        negative_prompt=negative_prompt,
        guidance_scale=guidance_scale,
        seed=seed,
        source_image=torch.from_numpy(np.array(image.fitted.image)),
        model_revision=model.revision,
        image_sha256=image.digest,
        key=key,
    )


def source_conditions(model: Model, prompt: str, negative_prompt: str) -> tuple[Condition, Condition]:
    """Source and negative prompt, read together as in the replay: there, the shorter one is padded likewise."""
    both = model.encode_prompt([prompt, negative_prompt])
    return both[[0]], both[[1]]


def image_psnr(image: Image.Image, reference: Image.Image) -> float:
    """PSNR of two PIL images of one size, dB."""
    return psnr(np.asarray(image), np.asarray(reference), data_range=255)


def check_inverted(model: Model, inverted: Inversion, image: SourceImage | None, timesteps: tuple[float, ...]) -> None:
    """Refuses an inversion of another image, model or grid, see `Inversion.check`."""
    inverted.check_tensors()
    height, width = inverted.noise.shape[2:]
    shape = (model.latent_channels, height, width)
    if image is not None:
        shape = model.latent_shape(image.fitted.image.size[::-1])
    digest, empty = "" if image is None else image.digest, None
    if inverted.null_embeds is not None or inverted.null_extras:
        with taking_turns(model):  # an offloaded model takes another network away for it, which a run may need
            empty = model.encode_prompt("")
    inverted.check(
        model_revision=model.revision, timesteps=timesteps, image_sha256=digest, latent_shape=shape, empty=empty
    )


def against_source(
    reconstruction: Image.Image, ceiling: Image.Image | None, image: SourceImage | None, *, drawn: bool
) -> tuple[Image.Image, float, float, list[str]]:
    """The source image, the PSNR of its reconstruction and of the autoencoder alone against it, dB, and what to say.

    Args:
        reconstruction: The source branch of a run, decoded.
        ceiling: The clean latents, decoded, where there are any.
        image: The image itself, where there is one.
        drawn: The model drew the source, so that it is its own reconstruction.
    """
    if image is not None:
        source = image.fitted.image
        best = math.nan if ceiling is None else image_psnr(ceiling, source)
        return source, image_psnr(reconstruction, source), best, []
    if drawn:
        return reconstruction, math.inf, math.inf, []
    if ceiling is None:
        unknown = "the inversion holds neither its image nor a trajectory: the reconstruction PSNR is not known"
        return reconstruction, math.nan, math.nan, [f"{unknown}; give the image, too"]
    known = "the inversion does not hold its image: the reconstruction is compared with its decoded latents"
    return ceiling, image_psnr(reconstruction, ceiling), math.nan, [f"{known}; give the image, too"]


def other_negative_note(made_with: str, given: str) -> str:
    """A note on a negative prompt that is not the inversion's, where it acts on the source branch, too."""
    return (
        f"the inversion was made with the negative prompt {made_with!r}, not {given!r}: the reconstruction becomes"
        " worse; leave yours out, or invert with it"
    )


def low_psnr_note(source_psnr: float, ceiling_psnr: float, guidance: float, suits: float | None) -> str:
    """A warning of a bad reconstruction, with what to try.

    Args:
        source_psnr, ceiling_psnr: Of the source branch and of the autoencoder alone, dB.
        guidance: Of the source branch.
        suits: What the inversion was made for; None: any.
    """
    if ceiling_psnr < LOW_PSNR + 1.0:
        remedy = f"the model's autoencoder only reaches {ceiling_psnr:.1f} dB here: use a larger image or another model"
    elif suits is not None and guidance != suits:
        remedy = f"source_guidance_scale={guidance:g} makes it drift: use {suits:g}"
    else:
        remedy = "describe the image better in the source prompt, or use more steps"
    return f"the reconstruction differs from the image (PSNR {source_psnr:.1f} dB): {remedy}"
