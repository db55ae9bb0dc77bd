"""The public verb `invert`: inverts an image once, for many edits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.api.arguments import boundary
from sfumato.api.common import (
    LOW_PSNR,
    check_prompts,
    image_psnr,
    inverted_image,
    low_psnr_note,
    seeded,
    source_conditions,
    warn,
)
from sfumato.api.cost import measured
from sfumato.api.encoding import encoded
from sfumato.api.request import recipe_of
from sfumato.api.requests import InvertRequest
from sfumato.api.results import InvertResult
from sfumato.api.source_image import read_source
from sfumato.images import Fit, ImageSource, to_images
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.models.traits import check_needs
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar


@boundary
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
    """Inverts an image, and measures the reconstruction.

    Args:
        model: From `load_model`.
        image: Path, bytes, PIL image, array or tensor.
        prompt: What the image shows.
        negative_prompt: Of the source branch, where it is guided; edits from the inversion take it over.
        method: Name of the inversion. "direct", the default of most edits, sets the source to its path, so that the
            reconstruction is exact by construction; "ddim" shows how well the model inverts by itself.
        num_inference_steps: None: the model's own choice.
        guidance_scale: Of the source branch, at which it is to be reconstructed; None: what the inversion is made for.
        seed: Of the inversion's draws, where it has any.
        size, fit, background, encode_steps, watch: See `edit`.
        options: The inversion's own, see `INVERSIONS[method].parameters`.

    Raises:
        UsageError: An argument is wrong.
        ImageError: The image cannot be read or does not fit.
    """
    request = InvertRequest(
        image=image,
        prompt=prompt,
        negative_prompt=negative_prompt,
        method=method,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        size=size,
        fit=fit,
        background=background,
        encode_steps=encode_steps,
        options=options,
    )
    return request.run(model, watch=watch)


def run(model: Model, request: InvertRequest, watch: Watch | None = None) -> InvertResult:
    """Runs a request, see `invert`."""
    check_needs("inversion", request.method, INVERSIONS, model)
    suits = INVERSIONS[request.method].source_guidance_scale
    guidance = request.guidance_scale
    if guidance is None:
        guidance = model.guidance_scale if suits is None else suits
    prompt_notes = check_prompts(prompt=request.prompt, negative_prompt=request.negative_prompt)
    steps = model.num_inference_steps if request.num_inference_steps is None else request.num_inference_steps
    model.schedule.timesteps(steps, latent_size=model.latent_shape()[1:])  # as many as there can be
    image = read_source(model, request.image, request.size, request.fit, request.background)
    request = replace(request, image=image.origin, num_inference_steps=steps, guidance_scale=guidance)
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        encoding = watching.during("encoding") if request.encode_steps else None
        clean = encoded(model, image.pixels, encode_steps=request.encode_steps, watch=encoding)
        inversion = inverted_image(
            model, clean, image, request.method, request.prompt, guidance_scale=guidance, num_inference_steps=steps,
            generator=seeded(request.seed), watch=watching.during("inverting"), encode_steps=request.encode_steps,
            negative_prompt=request.negative_prompt, seed=request.seed, **request.options,
        )  # fmt: skip
        back = _reconstructed(model, inversion, guidance, watching.during("reconstructing"))
        with torch.no_grad():
            reconstruction, ceiling = to_images(model.decode_latents(torch.cat([back, clean])))
    source = image.fitted.image
    source_psnr, ceiling_psnr = image_psnr(reconstruction, source), image_psnr(ceiling, source)
    notes = [*model.notes, *prompt_notes, *image.notes]
    if source_psnr < LOW_PSNR:
        notes.append(low_psnr_note(source_psnr, ceiling_psnr, guidance, suits))
        warn(notes[-1])
    recipe = recipe_of(request, model)
    return InvertResult(inversion, source, reconstruction, recipe, cost, source_psnr, ceiling_psnr, tuple(notes))


def _reconstructed(model: Model, inversion: Inversion, guidance_scale: float, watch: Watch) -> Tensor:
    """Clean latents as the inversion gives them back, (image, channels, height, width)."""
    prompt, negative_prompt = source_conditions(model, inversion.prompt, inversion.negative_prompt)
    latents = sample(
        model,
        inversion.noise,
        {"source": Branch(prompt, negative_prompt, guidance_scale)},
        timesteps=inversion.timesteps,
        start_index=inversion.start_index,
        replay=inversion,
        eta=inversion.eta,
        watch=watch,
    )
    return latents[0]
