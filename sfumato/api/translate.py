"""The public verb `translate`: an image of one model's domain becomes one of another's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import sfumato
from sfumato.api.arguments import boundary
from sfumato.api.common import check_prompts, seeded
from sfumato.api.cost import Cost, measured
from sfumato.api.requests import TranslateRequest, TranslationMethod
from sfumato.api.source_image import read_source
from sfumato.edits.two_models import LatentTranslation, bridge, reconstruct
from sfumato.edits.two_models import translate as translate_latents
from sfumato.images import Fit, ImageSource, as_png, save_image, to_images
from sfumato.inversions.result import Inversion
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class TranslateResult:
    """An image translated from one model to another.

    Attributes:
        image: The translation.
        source: The image as the first model saw it.
        reconstruction: As the first model gives it back, where asked for.
        recipe: Everything needed to repeat it; goes into saved files.
        cost: Network evaluations of both models, seconds, peak memory.
        faithfulness_psnr: Of the translation against the source, dB: how much of it was kept.
        reconstruction_psnr: Of the reconstruction against the source, dB, or None.
        inversion: The inversion of the source by the first model.
        notes: What was done to the image.
    """

    image: Image.Image
    source: Image.Image
    reconstruction: Image.Image | None
    recipe: Mapping[str, Any]
    cost: Cost
    faithfulness_psnr: float
    reconstruction_psnr: float | None
    inversion: Inversion
    notes: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the translation with its recipe.

        Raises:
            ImageError: The path cannot be written.
        """
        return save_image(self.image, path, recipe=self.recipe)

    def _repr_png_(self) -> bytes:
        return as_png([self.image])


@boundary
def translate(
    model_a: Model,
    model_b: Model,
    image: ImageSource,
    *,
    method: TranslationMethod = "cycle-diffusion",
    source_prompt: str = "",
    target_prompt: str = "",
    negative_prompt: str = "",
    num_inference_steps: int | None = None,
    guidance_scale: float = 1.0,
    source_guidance_scale: float = 1.0,
    strength: float | None = None,
    eta: float | None = None,
    refine_strength: float | None = None,
    refine_repeats: int | None = None,
    reconstruct_source: bool = False,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    watch: Watch | None = None,
) -> TranslateResult:
    """Translates an image from the domain of one model to that of another, each trained by itself.

    Args:
        model_a: The model whose domain the image is of, from `load_model`.
        model_b: The model whose domain the result should be of.
        image: Path, bytes, PIL image, array or tensor.
        method: "cycle-diffusion" (both models use the same random draws) or "ddib" (deterministic).
        source_prompt, target_prompt, negative_prompt: For text-to-image models; others do not use them.
        num_inference_steps: None: the second model's own choice.
        guidance_scale, source_guidance_scale: Of the second model and the first, at least 1 (1 = off).
        strength: Share of the steps that are run, in (0, 1]; lower keeps more of the image. None: 0.85 for
            cycle-diffusion, 1 for ddib.
        eta: Share of fresh noise at each step, in (0, 1]; cycle-diffusion only. None: 0.1.
        refine_strength: Strength of SDEdit with the second model afterwards, in [0, 1]; cycle-diffusion only. None: 0.
        refine_repeats: How often that SDEdit is repeated; None: once.
        reconstruct_source: Also give the first model's reconstruction, for one more evaluation a step.
        seed: Of all draws; -1: a random one, which the recipe records.
        size, fit, background, watch: See `edit`.

    Raises:
        UsageError: An argument is wrong, or does not go with the method.
        ImageError: The image cannot be read or does not fit.
        ModelError: The models' latents have different shapes.
    """
    request = TranslateRequest(
        image=image, method=method, source_prompt=source_prompt, target_prompt=target_prompt,
        negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
        source_guidance_scale=source_guidance_scale, strength=strength, eta=eta,
        refine_strength=refine_strength, refine_repeats=refine_repeats, reconstruct_source=reconstruct_source,
        seed=seed, size=size, fit=fit, background=background,
    )  # fmt: skip
    return request.run(model_a, model_b, watch=watch)


def run(model_a: Model, model_b: Model, request: TranslateRequest, watch: Watch | None = None) -> TranslateResult:
    """Runs a request, see `translate`."""
    prompt_notes = check_prompts(**request.prompts)
    steps = model_b.num_inference_steps if request.num_inference_steps is None else request.num_inference_steps
    coarser = max(model_a, model_b, key=lambda model: model.size_multiple)
    image = read_source(coarser, request.image, request.size, request.fit, request.background)
    request = replace(request, image=image.origin, num_inference_steps=steps)
    with (
        progress_bar(watch=watch) as watching,
        taking_turns(model_a, model_b, watch=watching),
        measured(model_a) as cost,
        measured(model_b) as cost_b,
        torch.no_grad(),
    ):
        found = _translated(model_a, model_b, model_a.encode_image(image.pixels), request, watching)
        translated, back = to_images(model_b.decode_latents(found.latents))[0], None
        if request.reconstruct_source:
            returned = reconstruct(
                model_a, found.inversion, prompt=request.source_prompt, negative_prompt=request.negative_prompt,
                guidance_scale=request.source_guidance_scale, watch=watching.during("reconstructing"),
            )  # fmt: skip
            back = to_images(model_a.decode_latents(returned))[0]
    if model_b is not model_a:
        cost.evaluations += cost_b.evaluations
    source, restore = image.fitted.image, image.fitted.restore
    return TranslateResult(
        image=restore(translated),
        source=restore(source),
        reconstruction=None if back is None else restore(back),
        recipe=_recipe(model_a, model_b, request),
        cost=cost,
        faithfulness_psnr=_psnr(translated, source),
        reconstruction_psnr=None if back is None else _psnr(back, source),
        inversion=found.inversion,
        notes=(*dict.fromkeys((*model_a.notes, *model_b.notes)), *prompt_notes, *image.notes, *found.notes),
    )


def _translated(
    model_a: Model, model_b: Model, latents: Tensor, request: TranslateRequest, watch: Watch
) -> LatentTranslation:
    """Runs the method on latents of the first model."""
    arguments: dict[str, Any] = {
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        **request.prompts,
        **request.options,
    }
    if request.method == "ddib":
        return bridge(model_a, model_b, latents, watch=watch, **arguments)
    return translate_latents(
        model_a, model_b, latents, source_guidance_scale=request.source_guidance_scale,
        generator=seeded(request.seed), watch=watch, **arguments,
    )  # fmt: skip


def _recipe(model_a: Model, model_b: Model, request: TranslateRequest) -> dict[str, Any]:
    return {
        "command": request.command,
        "sfumato": sfumato.__version__,
        "models": [model_a.name, model_b.name],
        "revisions": [model_a.revision, model_b.revision],
        **({"parts": [dict(model_a.parts), dict(model_b.parts)]} if model_a.parts or model_b.parts else {}),
        **request.to_json(),
    }


def _psnr(image: Image.Image, reference: Image.Image) -> float:
    return psnr(np.asarray(image), np.asarray(reference), data_range=255)
