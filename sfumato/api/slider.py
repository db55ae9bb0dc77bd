"""The public verb `slider`: an edit as frames, from the source to the full edit, or along an option's range."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sfumato import checks
from sfumato.api import edit_run
from sfumato.api.arguments import boundary
from sfumato.api.common import method_for
from sfumato.api.cost import measured
from sfumato.api.edit_plan import plan_edit
from sfumato.api.fast import chosen
from sfumato.api.masks import MaskSource
from sfumato.api.morph_plan import distance_notes
from sfumato.api.request import recipe_of
from sfumato.api.requests import EditRequest, SliderRequest
from sfumato.api.results import EditResult, MorphResult
from sfumato.api.vary import GUIDANCE, Vary, options_at
from sfumato.conditions.mixing import PromptMix
from sfumato.errors import UsageError
from sfumato.images import Fit, ImageSource, to_images, to_pixels
from sfumato.inversions.result import Inversion
from sfumato.judges.distances import load_distance
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.drawing import drawing
from sfumato.morphs.path import MorphPath
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.registry import recorded
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar


@boundary
def slider(
    model: Model,
    image: ImageSource | None = None,
    *,
    source_prompt: str,
    target_prompt: str | None = None,
    method: str | None = None,
    fast: bool = False,
    vary: Vary | None = None,
    num_frames: int = 8,
    spacing: str = "uniform",
    spacing_options: Mapping[str, Any] | None = None,
    distance: str | Distance | None = None,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | None = None,
    inverted: Inversion | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
    source_guidance_scale: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    encode_steps: int = 0,
    mask: MaskSource | None = None,
    mask_words: str | Sequence[str] | None = None,
    mask_threshold: float = 0.4,
    mask_feather: float = 0.0,
    mask_invert: bool = False,
    mask_pixels: bool = False,
    alpha: bool = True,
    watch: Watch | None = None,
    **options: Any,
) -> MorphResult:
    """Makes a sequence of an edit, from no edit to the full one at an even pace; the image is inverted once.

    Without `vary` the sequence goes from the reconstruction of the source to the full edit: in between, the
    target branch has a condition between the two prompts and a guidance scale between that of the source and its own.
    A method that goes along an edit direction is varied by `direction_scale` instead, from 0.

    Args:
        model: From `load_model`.
        image: As for `edit`.
        source_prompt: What the image shows.
        target_prompt: What the last frame should show; None: the source prompt, where an option alone makes the edit.
        fast: As for `edit`.
        method: A name in `METHODS`, but not "auto"; None: as for `edit`.
        vary: First and last value of options of the method: `{"direction_scale": (0, 1.5)}`, of a word's weight
            `{"weights": {"red": (0, 3)}}`, `{"guidance_scale": (1, 6)}`. Several change together.
        num_frames: The first and the last included, at least 3.
        spacing, spacing_options, distance, watch: As for `morph`.
        inversion, inversion_options, inverted, negative_prompt, num_inference_steps, guidance_scale,
            guidance_interval, cache_interval, source_guidance_scale, seed, size, fit, background, encode_steps, mask,
            mask_words, mask_threshold, mask_feather, mask_invert, mask_pixels, alpha, options: As for `edit`.

    Returns:
        Frames; weight 0 is the source (or the low end of `vary`), 1 the full edit. `sources` is the one source image,
        and `endpoint_psnr` the PSNR of its reconstruction.

    Raises:
        UsageError: An argument is wrong, or the method cannot be varied so.
        SfumatoError: What `edit` raises.
    """
    method = method if checks.flag("fast", fast) else method_for(model, method)
    request = SliderRequest(
        image=image, source_prompt=source_prompt, target_prompt=() if target_prompt is None else target_prompt,
        method=method, fast=fast, vary=vary, num_frames=num_frames, spacing=spacing, spacing_options=spacing_options,
        distance=distance, inversion=inversion, inversion_options=inversion_options, inverted=inverted,
        negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
        guidance_interval=guidance_interval, cache_interval=cache_interval,
        source_guidance_scale=source_guidance_scale, seed=seed, size=size, fit=fit, background=background,
        encode_steps=encode_steps, mask=mask, mask_words=mask_words, mask_threshold=mask_threshold,
        mask_feather=mask_feather, mask_invert=mask_invert, mask_pixels=mask_pixels, alpha=alpha, options=options,
    )  # fmt: skip
    return request.run(model, watch=watch)


def run(model: Model, request: SliderRequest, watch: Watch | None = None) -> MorphResult:
    """Runs a request, see `slider`."""
    model, request = chosen(model, request)
    request = _ranged(request.suited(model))
    measure = load_distance(request.distance, model)
    plan = plan_edit(model, _edit_at(request, 1.0))
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        full = edit_run.run_plan(model, plan, watching)
        draw = _Drawing(model, request, full, Watch(cancelled=watching.cancelled))
        options = request.spacing_options or {}
        path = MorphPath(draw, in_pixels=True)
        frames = drawing(model, path, request.spacing, options, request.num_frames, watch=watching)
        spaced = SPACINGS[request.spacing](frames, measure, request.num_frames, watch=watching, **options)
    return MorphResult(
        images=tuple(
            plan.transparent(image) if request.alpha else image
            for image in to_images(frames.at(spaced.weights).float().cpu())
        ),
        weights=spaced.weights,
        distances=spaced.distances,
        even_distances=spaced.even_distances,
        sources=(full.source,),
        endpoint_psnr=(full.reconstruction_psnr,),
        ceiling_psnr=(full.ceiling_psnr,),
        recipe=recipe_of(
            _filled(request, plan.request, measure),
            model,
            weights=[round(weight, 6) for weight in spaced.weights],
            found=[recorded(spaced.record)],
        ),
        cost=cost,
        notes=(*full.notes, *distance_notes(request.distance, measure), *spaced.notes),
    )


def _ranged(request: SliderRequest) -> SliderRequest:
    """The request with the range of a direction's scale, where the method goes along one and nothing else is varied.

    Raises:
        UsageError: Nothing would change.
    """
    scale = request.entry.parameters.get("direction_scale")
    if request.vary is None and scale is not None:
        full = request.options.get("direction_scale", scale.default)
        return replace(request, vary={"direction_scale": (0.0, full)})
    if request.vary is None and request.targets == (request.source_prompt,):
        raise UsageError("a slider needs a target prompt that differs from the source prompt, or options to vary")
    return request


def _edit_at(request: SliderRequest, weight: float, **changes: Any) -> EditRequest:
    """The edit of a frame."""
    values = {argument.name: getattr(request, argument.name) for argument in fields(EditRequest)}
    values |= {"alpha": False, **changes}  # frames are drawn on the background, and taken off it in the end
    varied = options_at(request.vary, weight, request.options)
    if GUIDANCE in varied:
        values[GUIDANCE] = varied.pop(GUIDANCE)
    return EditRequest(**values | {"options": {**request.options, **varied}})


def _filled(request: SliderRequest, full: EditRequest, measure: Distance) -> SliderRequest:
    """The request with nothing left open: all that the full edit was run with."""
    values = {argument.name: getattr(full, argument.name) for argument in fields(EditRequest)}
    return replace(request, **values | {"alpha": request.alpha, "distance": measure})


class _Drawing:
    """Draws frames of a slider; the image is inverted once.

    Args:
        model: Any model.
        request: With its ranges.
        full: The edit at weight 1.
        watch: Asked for cancellation.
    """

    def __init__(self, model: Model, request: SliderRequest, full: EditResult, watch: Watch) -> None:
        self._model, self._request, self._full, self._watch = model, request, full, watch
        self._source_guidance: float = full.recipe["source_guidance_scale"]
        self._guidance: float = full.recipe[GUIDANCE]

    def __call__(self, weights: Sequence[float]) -> Tensor:
        """Frames in pixels, (frame, 3, H, W)."""
        return torch.cat([self._frame(weight) for weight in weights])

    def _frame(self, weight: float) -> Tensor:
        full = self._full
        if weight == 1.0:
            return to_pixels(full.image)
        if weight == 0.0 and self._request.vary is None and full.recipe["mask"] is None:  # else the image itself stays
            return to_pixels(full.reconstruction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said by the full edit
            return to_pixels(self._edited(weight).image)

    def _edited(self, weight: float) -> EditResult:
        changes: dict[str, Any] = {"source_guidance_scale": self._source_guidance}
        if self._full.inversion.method in (*self._request.entry.inversions, "drawn"):
            changes |= {"inverted": self._full.inversion, "encode_steps": 0}  # the inversion has them
        mix = None
        if self._request.vary is None:
            mix = self._way.at(weight)
            changes[GUIDANCE] = self._source_guidance + weight * (self._guidance - self._source_guidance)
        return edit_run.run(self._model, _edit_at(self._request, weight, **changes), self._watch, mix=mix)

    @cached_property
    def _way(self) -> PromptMix:
        return PromptMix.between(self._model, self._request.source_prompt, self._request.targets[0])
