"""The public driver `invert`: finds what leads back to a picture, once for many edits."""

from __future__ import annotations

import warnings
from typing import Any

import torch

import sfumato
from sfumato.api.arguments import boundary
from sfumato.api.common import LOW_PSNR, image_psnr, inverted_picture, low_psnr_note, told_of_prompts
from sfumato.api.cost import measured
from sfumato.api.encoding import encoded
from sfumato.api.results import InvertResult
from sfumato.api.source_image import read_picture
from sfumato.images import Fit, ImageSource, to_images
from sfumato.models.base import Model
from sfumato.registry import INVERSIONS
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar


@boundary()
def invert(
    model: Model,
    image: ImageSource,
    *,
    prompt: str = "",
    negative_prompt: str = "",
    method: str = "direct",
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    encode_steps: int = 0,
    watch: Watch | None = None,
    **options: Any,
) -> InvertResult:
    """Finds what leads back to a picture, and shows how well it comes back.

    Args:
        model: From `load_model`.
        image: Path, bytes, PIL picture, array or tensor.
        prompt: What the picture shows.
        negative_prompt: What guidance leads away from, where it acts; edits from the inversion take it over.
        method: Name of the inversion. "direct", as for most edits, holds the source to its path, so that it comes back
            by construction; "ddim" shows how well the model by itself leads back.
        num_inference_steps: None: the model's own choice.
        guidance_scale: At which it shall come back; None: what the inversion is made for.
        seed: Of the inversion's draws, where it has any.
        size, fit, background, encode_steps, watch: See `edit`.
        options: The inversion's own, see `INVERSIONS[method].parameters`.

    Raises:
        UsageError: An argument is wrong.
        ImageError: The picture cannot be read or does not fit.
    """
    entry = INVERSIONS[method]
    options = entry.check_options(options)
    suits = model.guidance_scale if entry.source_guidance_scale is None else entry.source_guidance_scale
    guidance = suits if guidance_scale is None else guidance_scale
    told = told_of_prompts(prompt=prompt, negative_prompt=negative_prompt)
    steps = model.num_inference_steps if num_inference_steps is None else num_inference_steps
    model.schedule.timesteps(steps)
    picture = read_picture(model, image, size, fit, background)
    recipe = {
        "command": "invert",
        "sfumato": sfumato.__version__,
        **model.recipe,
        "inversion": method,
        "source_prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "encode_steps": encode_steps,
        "options": options,
        "image": picture.origin,
    }
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        encoding = watching.during("encoding") if encode_steps else None
        clean = encoded(model, picture.pixels, encode_steps=encode_steps, watch=encoding)
        inversion = inverted_picture(
            model, clean, picture, method, prompt, guidance_scale=guidance, num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed), watch=watching.during("inverting"),
            encode_steps=encode_steps, negative_prompt=negative_prompt, seed=seed, **options,
        )  # fmt: skip
        branch = Branch(model.encode_prompt(prompt), model.encode_prompt(negative_prompt), guidance)
        back = sample(
            model,
            inversion.noise,
            {"source": branch},
            timesteps=inversion.timesteps,
            start_index=inversion.start_index,
            replay=inversion,
            eta=inversion.eta,
            watch=watching.during("reconstructing"),
        )
        with torch.no_grad():
            reconstruction, ceiling = to_images(model.decode_latents(torch.cat([back[0], clean])))
    source = picture.fitted.image
    source_psnr, ceiling_psnr = image_psnr(reconstruction, source), image_psnr(ceiling, source)
    notes = [*model.notes, *told, *picture.notes]
    if source_psnr < LOW_PSNR:
        notes.append(low_psnr_note(source_psnr, ceiling_psnr, guidance, entry.source_guidance_scale))
        warnings.warn(notes[-1], stacklevel=3)  # past the boundary
    return InvertResult(inversion, source, reconstruction, recipe, cost, source_psnr, ceiling_psnr, tuple(notes))
