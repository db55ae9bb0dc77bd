"""The public driver `translate`: a picture of one model's world becomes one of another's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

import sfumato
from sfumato import checks
from sfumato.api.arguments import boundary
from sfumato.api.common import told_of_prompts
from sfumato.api.cost import Cost, measured
from sfumato.api.source_image import read_picture
from sfumato.edits.two_models import bridge, reconstruct
from sfumato.edits.two_models import translate as translate_latents
from sfumato.errors import UsageError
from sfumato.images import Fit, ImageSource, as_png, save_image, to_images
from sfumato.inversions.result import Inversion
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

if TYPE_CHECKING:
    from PIL import Image

TranslationMethod = Literal["cycle-diffusion", "ddib"]

_CHECKS: Mapping[str, checks.Check] = {
    "strength": partial(checks.number, above=0.0, high=1.0),
    "eta": partial(checks.number, above=0.0, high=1.0, hint=": at 0 there are no draws to share; ddib needs none"),
    "refine_strength": partial(checks.number, low=0.0, high=1.0),
    "refine_repeats": partial(checks.whole, low=1),
}


@dataclass(frozen=True)
class TranslateResult:
    """A picture translated from one model to another.

    Attributes:
        image: The translation.
        source: The picture as the first model saw it.
        reconstruction: As the first model gives it back, where asked for.
        recipe: Everything needed to repeat it; goes into saved files.
        cost: Network evaluations of both models, seconds, peak memory.
        faithfulness_psnr: Of the translation against the source, dB: how much of it was kept.
        reconstruction_psnr: Of the reconstruction against the source, dB, or None.
        inversion: What leads back to the source with the first model.
        notes: What was done to the picture.
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


@boundary(
    source_prompt=checks.text,
    target_prompt=checks.text,
    reconstruct_source=checks.flag,
    **{name: checks.optional(check) for name, check in _CHECKS.items()},
)
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
    """Translates a picture from the world of one model to that of another; neither needs to know the other.

    Args:
        model_a: The model that the picture belongs to, from `load_model`.
        model_b: The model that it shall belong to.
        image: Path, bytes, PIL picture, array or tensor.
        method: "cycle-diffusion" (stochastic noises of the first model, drawn by the second) or "ddib" (deterministic).
        source_prompt, target_prompt, negative_prompt: For models of text; others do not read them.
        num_inference_steps: None: the second model's own choice.
        guidance_scale, source_guidance_scale: Of the second model and the first, at least 1 (1 = off).
        strength: Share of the steps to go back, in (0, 1]; less keeps more of the picture. None: 0.85 for
            cycle-diffusion, 1 for ddib.
        eta: How much of the code is in the noise of the steps, in (0, 1]; cycle-diffusion only. None: 0.1.
        refine_strength: How far SDEdit with the second model goes afterwards, in [0, 1]; cycle-diffusion only. None: 0.
        refine_repeats: How often; None: once.
        reconstruct_source: Also draw what the first model gives back, for one more evaluation a step.
        seed: Of all draws; -1: a random one, which the recipe records.
        size, fit, background, watch: See `edit`.

    Raises:
        UsageError: An argument is wrong, or does not go with the method.
        ImageError: The picture cannot be read or does not fit.
        ModelError: The models' latents have different shapes.
    """
    options = check_options(
        method, guidance_scale, source_guidance_scale, strength=strength, eta=eta, refine_strength=refine_strength,
        refine_repeats=refine_repeats,
    )  # fmt: skip
    told = told_of_prompts(source_prompt=source_prompt, target_prompt=target_prompt, negative_prompt=negative_prompt)
    steps = model_b.num_inference_steps if num_inference_steps is None else num_inference_steps
    picture = read_picture(max(model_a, model_b, key=lambda model: model.size_multiple), image, size, fit, background)
    prompts = {"source_prompt": source_prompt, "target_prompt": target_prompt, "negative_prompt": negative_prompt}
    recipe = {
        "command": "translate",
        "sfumato": sfumato.__version__,
        "models": [model_a.name, model_b.name],
        "revisions": [model_a.revision, model_b.revision],
        **({"parts": [dict(model_a.parts), dict(model_b.parts)]} if model_a.parts or model_b.parts else {}),
        "method": method,
        **prompts,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "source_guidance_scale": source_guidance_scale,
        "seed": seed,
        "size": list(size) if size else None,
        "fit": fit,
        "background": list(background),
        "options": options,
        "image": picture.origin,
    }
    with (
        progress_bar(watch=watch) as watching,
        taking_turns(model_a, model_b, watch=watching),
        measured(model_a) as cost,
        measured(model_b) as cost_b,
        torch.no_grad(),
    ):
        latents = model_a.encode_image(picture.pixels)
        arguments: dict[str, Any] = {
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            **prompts,
            **options,
        }
        if method == "cycle-diffusion":
            generator = torch.Generator().manual_seed(seed)
            found = translate_latents(
                model_a, model_b, latents, source_guidance_scale=source_guidance_scale, generator=generator,
                watch=watching, **arguments,
            )  # fmt: skip
        else:
            found = bridge(model_a, model_b, latents, watch=watching, **arguments)
        translated, back = to_images(model_b.decode_latents(found.latents))[0], None
        if reconstruct_source:
            returned = reconstruct(
                model_a, found.inversion, prompt=source_prompt, negative_prompt=negative_prompt,
                guidance_scale=source_guidance_scale, watch=watching.during("reconstructing"),
            )  # fmt: skip
            back = to_images(model_a.decode_latents(returned))[0]
    if model_b is not model_a:
        cost.evaluations += cost_b.evaluations
    source, restore = picture.fitted.image, picture.fitted.restore
    return TranslateResult(
        image=restore(translated),
        source=restore(source),
        reconstruction=None if back is None else restore(back),
        recipe=recipe,
        cost=cost,
        faithfulness_psnr=_psnr(translated, source),
        reconstruction_psnr=None if back is None else _psnr(back, source),
        inversion=found.inversion,
        notes=(*dict.fromkeys((*model_a.notes, *model_b.notes)), *told, *picture.notes, *found.notes),
    )


def check_options(
    method: str,
    guidance_scale: float,
    source_guidance_scale: float,
    *,
    strength: float | None = None,
    eta: float | None = None,
    refine_strength: float | None = None,
    refine_repeats: int | None = None,
) -> dict[str, Any]:
    """What was given of strength and the rest, after checks that need no model.

    Raises:
        UsageError: See `translate`.
    """
    given = {"eta": eta, "refine_strength": refine_strength, "refine_repeats": refine_repeats, "strength": strength}
    options = {name: _CHECKS[name](name, value) for name, value in given.items() if value is not None}
    checks.choice("method", method, get_args(TranslationMethod))
    checks.guidance("guidance_scale", guidance_scale)
    checks.guidance("source_guidance_scale", source_guidance_scale)
    drawing = [name for name in options if name != "strength"]
    if method == "ddib" and drawing:
        raise UsageError(f"ddib draws nothing and refines nothing: leave out {', '.join(drawing)}")
    if method == "ddib" and source_guidance_scale != 1.0:
        raise UsageError(
            f"ddib inverts without guidance: source_guidance_scale must be 1, got {source_guidance_scale:g}"
        )
    return options


def _psnr(image: Image.Image, reference: Image.Image) -> float:
    return psnr(np.asarray(image), np.asarray(reference), data_range=255)
