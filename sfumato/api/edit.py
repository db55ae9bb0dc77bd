"""The public verb `edit`: reads an image, inverts it, runs a method, gives images and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.api.arguments import boundary
from sfumato.api.common import (
    LOW_PSNR,
    against_source,
    drawn_noise,
    inverted_picture,
    low_psnr_note,
    seeded,
    warn,
)
from sfumato.api.cost import Cost, measured
from sfumato.api.edit_plan import STARTS, EditPlan, plan_edit
from sfumato.api.encoding import encoded
from sfumato.api.masks import MaskedRun, MaskSource
from sfumato.api.request import recipe_of
from sfumato.api.requests import EditRequest
from sfumato.api.results import EditCandidate, EditResult
from sfumato.conditions.words import pieces_of
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.images import Fit, ImageSource, to_images
from sfumato.inversions.result import Inversion
from sfumato.models.base import Model
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

if TYPE_CHECKING:
    from PIL import Image


@boundary
def edit(
    model: Model,
    image: ImageSource | None = None,
    *,
    source_prompt: str,
    target_prompt: str | Sequence[str],
    method: str = "prompt-to-prompt",
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | None = None,
    inverted: Inversion | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
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
) -> EditResult:
    """Edits a picture by text; everything else stays.

    Args:
        model: From `load_model`.
        image: Path, bytes, PIL picture, array or tensor; None: edit the picture that the model draws of the source
            prompt.
        source_prompt: What the picture shows.
        target_prompt: What it shall show; several give several pictures in one batch.
        method: A name in `METHODS`.
        inversion: How to get back to noise, a name in `INVERSIONS`; None: the method's first choice.
        inversion_options: The inversion's own, see `INVERSIONS[inversion].parameters`.
        inverted: An inversion made before, of the same image, model and step count. It holds the image that it was made
            of, which is edited where `image` is None.
        negative_prompt: What guidance leads away from; None: the inversion's, where one is given, else nothing.
        num_inference_steps: None: the model's own choice (50).
        guidance_scale: Strength of the target prompt, at least 1 (1 = off); None: the model's own choice.
        source_guidance_scale: Guidance of the source branch; None: what the inversion of a real picture needs for it
            to come back (1 for most), or what `inverted` was made for; as `guidance_scale` for a drawn picture.
        seed: Of all draws; -1: a random one, which the recipe records.
        size: (width, height) in pixels; None: the picture's own.
        fit: What may be done when the picture does not fit the model: "crop", "pad" or "resize".
        background: Colour under transparent pixels.
        encode_steps: Steps that bring what the autoencoder gives back nearer to the picture before it is edited, see
            `sfumato.api.encoding`; 20 gain 2 to 4 dB with `emoji`. An inversion made before has its own.
        mask: Where the edit may change the image (white), an image of the same size; where it is black or transparent,
            the image stays, and grey keeps its share of it (docs/masks.md). It is fitted as the image is. A method with
            a mask of its own (`METHODS[method].takes_mask`) uses this one instead.
        mask_words: Such a mask made from where these words of the source prompt look.
        mask_threshold: Share of the words' largest attention that counts as inside, in (0, 1).
        mask_feather: Width in pixels of the mask's soft edge, which lies inside the mask.
        mask_invert: Everything but the mask, or but what the words mark, may change.
        mask_pixels: Paste the result into the source image, so that what lies outside the mask is bit-identical.
        alpha: Where the image is transparent, give results that are transparent, too: the model sees the image on the
            background, and the results are taken off it again.
        watch: Progress, previews, cancellation; None: a progress bar when stderr is a terminal.
        options: The method's own, see `METHODS[method].parameters`; what is not given is what suits the model, see
            `Model.method_options`, else the method's default.

    Raises:
        UsageError: An argument is wrong (unknown name, out of range, prompts that do not fit the method).
        ImageError: The picture cannot be read or does not fit.
        InversionError: `inverted` belongs to another model or step count.
        ModelError: The model cannot honour the edit.
        SamplingError: The run broke down.
    """
    request = EditRequest(
        image=image,
        source_prompt=source_prompt,
        target_prompt=target_prompt,
        method=method,
        inversion=inversion,
        inversion_options=inversion_options,
        inverted=inverted,
        negative_prompt=negative_prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        source_guidance_scale=source_guidance_scale,
        seed=seed,
        size=size,
        fit=fit,
        background=background,
        encode_steps=encode_steps,
        mask=mask,
        mask_words=mask_words,
        mask_threshold=mask_threshold,
        mask_feather=mask_feather,
        mask_invert=mask_invert,
        mask_pixels=mask_pixels,
        alpha=alpha,
        options=options,
    )
    return request.run(model, watch=watch)


@dataclass(frozen=True)
class _Source:
    """Where a run starts: the image's clean latents, where there are any, and what leads back to it."""

    clean: Tensor | None
    start: Inversion


@dataclass(frozen=True)
class _Decoded:
    """Images of a run: the source branch, the edits, all that were tried, and the image's clean latents."""

    reconstruction: Image.Image
    edits: Sequence[Image.Image]
    tried: Sequence[Image.Image]
    ceiling: Image.Image | None


def run(model: Model, request: EditRequest, watch: Watch | None = None) -> EditResult:
    """Runs a request, see `edit`."""
    return run_plan(model, plan_edit(model, request), watch)


def run_plan(model: Model, plan: EditPlan, watch: Watch | None = None) -> EditResult:
    """Runs what was planned with the same model."""
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        generator = seeded(plan.request.seed)
        source = _source(model, plan, generator, watching)
        masked = None
        if plan.masking is not None and source.clean is not None:
            prompt, targets = plan.request.source_prompt, len(plan.request.targets)
            masked = plan.masking.for_run(model, source.clean, source.start, prompt, targets, generator)
        edited = _edited(model, plan, source.start, masked, generator, watching.during("editing"))
        decoded = _decoded(model, edited, source.clean, masked)
    return _result(model, plan, source.start, edited, decoded, masked, cost)


def _source(model: Model, plan: EditPlan, generator: torch.Generator, watch: Watch) -> _Source:
    """Encodes and inverts the image, or draws the noise of one, as far as it was not done before."""
    request, inverted, picture, clean = plan.request, plan.inverted, plan.picture, None
    if inverted is not None and inverted.trajectory is not None:
        clean = inverted.clean.to(model.device, torch.float32)
    elif picture is not None:
        encoding = watch.during("encoding") if request.encode_steps else None
        clean = encoded(model, picture.pixels, encode_steps=request.encode_steps, watch=encoding)
    prompt = request.source_prompt
    if inverted is not None and (plan.inversion or inverted.method in STARTS):
        return _Source(clean, inverted)
    if clean is None:
        noise = drawn_noise(model, [generator], request.size)
        return _Source(None, Inversion("drawn", noise, plan.timesteps, prompt=prompt))
    if not plan.inversion or picture is None:
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return _Source(clean, Inversion("picture", noise, plan.timesteps, trajectory=clean[None], prompt=prompt))
    start = inverted_picture(
        model, clean, picture, plan.inversion, prompt, negative_prompt=request.negative_prompt or "",
        seed=request.seed, guidance_scale=request.source_guidance_scale,
        num_inference_steps=request.num_inference_steps, generator=generator, watch=watch.during("inverting"),
        encode_steps=request.encode_steps, **(request.inversion_options or {}),
    )  # fmt: skip
    return _Source(clean, start)


def _edited(
    model: Model, plan: EditPlan, start: Inversion, masked: MaskedRun | None, generator: torch.Generator, watch: Watch
) -> LatentEdit:
    """Runs the method."""
    request = plan.request
    task = EditTask(
        model,
        start,
        request.source_prompt,
        request.targets,
        request.negative_prompt or "",
        guidance_scale=request.guidance_scale or model.guidance_scale,
        source_guidance_scale=request.source_guidance_scale,
        generator=generator,
        mask=None if masked is None else masked.hook.inside,
        on_step=() if masked is None else (masked.hook,),
        watch=watch,
    )
    edited: LatentEdit = plan.method.function(task, **request.options)
    return edited


@torch.no_grad()
def _decoded(model: Model, edited: LatentEdit, clean: Tensor | None, masked: MaskedRun | None) -> _Decoded:
    """The images of all latents, under a mask with those of the image outside it."""
    final, tried = edited.latents[:, 0], [candidate.latents for candidate in edited.candidates]
    if masked is not None:
        final = torch.cat([final[:1], masked.latents(final[1:])])
        tried = [masked.latents(latents) for latents in tried]
    reconstruction, *edits = to_images(model.decode_latents(final))
    return _Decoded(
        reconstruction,
        edits,
        [to_images(model.decode_latents(latents))[0] for latents in tried],
        None if clean is None else to_images(model.decode_latents(clean))[0],
    )


def _result(
    model: Model,
    plan: EditPlan,
    start: Inversion,
    edited: LatentEdit,
    decoded: _Decoded,
    masked: MaskedRun | None,
    cost: Cost,
) -> EditResult:
    """Measures how well the source came back, and puts all together."""
    request, picture = plan.request, plan.picture
    source, source_psnr, ceiling_psnr, measured_how = against_source(
        decoded.reconstruction, decoded.ceiling, picture, drawn=plan.drawn
    )
    notes = [*plan.notes, *edited.notes, *plan.source_notes, *measured_how]
    if source_psnr < LOW_PSNR:
        notes.append(low_psnr_note(source_psnr, ceiling_psnr, request.source_guidance_scale or 1.0, plan.suits))
        warn(notes[-1])
    edits, tried = decoded.edits, decoded.tried
    if masked is not None:
        edits, tried = masked.images(edits, source), masked.images(tried, source)

    def restored(image: Image.Image) -> Image.Image:
        return image if picture is None else picture.fitted.restore(image)

    def shown(image: Image.Image) -> Image.Image:
        return plan.transparent(restored(image)) if request.alpha else restored(image)

    prompts = (request.source_prompt, *request.targets) if edited.maps is not None else ()
    return EditResult(
        images=tuple(map(shown, edits)),
        source=restored(source),
        reconstruction=restored(decoded.reconstruction),
        recipe=recipe_of(request, model),
        cost=cost,
        reconstruction_psnr=source_psnr,
        ceiling_psnr=ceiling_psnr,
        inversion=start,
        notes=tuple(notes),
        maps=None if edited.maps is None else edited.maps[:, 0].float().cpu(),
        tried=tuple(
            EditCandidate(candidate.method, candidate.options, candidate.agreement, candidate.change, shown(image))
            for candidate, image in zip(edited.candidates, tried, strict=True)
        ),
        distances=None if edited.distances is None else edited.distances[..., 0].float().cpu(),
        _pieces=tuple(tuple(pieces_of(model.tokenizer, prompt)) for prompt in prompts),
    )
