"""The run of an edit: the image is encoded and inverted, the method runs, and its latents are decoded and measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from sfumato.api.common import (
    LOW_PSNR,
    against_source,
    drawn_noise,
    inverted_image,
    low_psnr_note,
    seeded,
    warn,
)
from sfumato.api.cost import Cost, measured
from sfumato.api.edit_plan import STARTS, EditPlan, plan_edit
from sfumato.api.encoding import encoded
from sfumato.api.masks import MaskedRun
from sfumato.api.request import recipe_of
from sfumato.api.requests import EditRequest
from sfumato.api.results import EditCandidate, EditResult
from sfumato.api.source_memory import SourceMemory
from sfumato.conditions.mixing import PromptMix
from sfumato.conditions.words import pieces_of
from sfumato.edits.result import LatentEdit
from sfumato.edits.task import EditTask
from sfumato.images import to_images
from sfumato.inversions.result import Inversion
from sfumato.inversions.together import together
from sfumato.models.base import Model
from sfumato.registry import recorded
from sfumato.sampling.draws import Generators, draw_noise
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class _Source:
    """Where a run starts: the image's clean latents, where there are any, and its inversion."""

    clean: Tensor | None
    start: Inversion


@dataclass(frozen=True)
class _Decoded:
    """Images of a run: the source branch, the edits, all that were tried, and the image's clean latents."""

    reconstruction: Image.Image
    edits: Sequence[Image.Image]
    tried: Sequence[Image.Image]
    ceiling: Image.Image | None


Sources: TypeAlias = SourceMemory[_Source]


def run(
    model: Model,
    request: EditRequest,
    watch: Watch | None = None,
    *,
    mix: PromptMix | None = None,
    sources: Sources | None = None,
) -> EditResult:
    """Runs a request, see `edit`.

    Args:
        model, request, watch: See `edit`.
        mix: The target branches see a text between the two prompts.
        sources: Kept from edits before with the same model: an image that they inverted alike is not inverted again.
    """
    plan = plan_edit(model, request)
    (result,) = run_together(plan.model, [plan], watch, mix, sources)
    return result


def run_plan(model: Model, plan: EditPlan, watch: Watch | None = None) -> EditResult:
    """Runs what was planned with the same model."""
    (result,) = run_together(model, [plan], watch)
    return result


def run_together(
    model: Model,
    plans: Sequence[EditPlan],
    watch: Watch | None,
    mix: PromptMix | None = None,
    known: Sources | None = None,
) -> list[EditResult]:
    """Runs plans that differ in images of one size and in seeds as one batch, or a single plan of any kind."""
    plan, count = plans[0], len(plans)
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        generators = [seeded(plan.request.seed) for plan in plans]
        sources = [_recalled(known, model, plan, one, watching) for plan, one in zip(plans, generators, strict=True)]
        masked = _masked(model, plan, sources[0], generators[0])
        start, draws = together([source.start for source in sources]), generators if count > 1 else generators[0]
        batch = _edited(model, plan, start, masked, draws, mix, watching.during("editing"))
        edits = [batch.of_image(k) for k in range(count)]
        decoded = [_decoded(model, edited, source.clean, masked) for edited, source in zip(edits, sources, strict=True)]
    each = replace(cost, evaluations=cost.evaluations // count, seconds=cost.seconds / count)
    return [
        _result(model, plan, source.start, edited, images, masked, each)
        for plan, source, edited, images in zip(plans, sources, edits, decoded, strict=True)
    ]


def _masked(model: Model, plan: EditPlan, source: _Source, generator: torch.Generator) -> MaskedRun | None:
    """The mask of the run, where there is one."""
    if plan.masking is None or source.clean is None:
        return None
    prompt, targets = plan.request.source_prompt, len(plan.request.targets)
    return plan.masking.for_run(model, source.clean, source.start, prompt, targets, generator)


def _recalled(known: Sources | None, model: Model, plan: EditPlan, generator: torch.Generator, watch: Watch) -> _Source:
    """What a run starts from, taken from what is known where an image was inverted alike."""
    request, image = plan.request, plan.picture
    if known is None or image is None or plan.inverted is not None:
        return _source(model, plan, generator, watch)
    options = json.dumps(recorded(request.inversion_options or {}), sort_keys=True)
    made_of = (
        image.digest, image.fitted.image.size, plan.inversion, options, request.source_prompt, request.negative_prompt,
        request.source_guidance_scale, plan.timesteps, request.seed, request.encode_steps,
    )  # fmt: skip
    return known.recall(made_of, generator, lambda: _source(model, plan, generator, watch))


def _source(model: Model, plan: EditPlan, generator: torch.Generator, watch: Watch) -> _Source:
    """Encodes and inverts the image, or draws the noise of one, as far as it was not done before."""
    request, inverted, image, clean = plan.request, plan.inverted, plan.picture, None
    if inverted is not None and inverted.trajectory is not None:
        clean = inverted.clean.to(model.device, torch.float32)
    elif image is not None:
        encoding = watch.during("encoding") if request.encode_steps else None
        clean = encoded(model, image.pixels, encode_steps=request.encode_steps, watch=encoding)
    prompt = request.source_prompt
    if inverted is not None and (plan.inversion or inverted.method in STARTS):
        if inverted.method in STARTS:  # its noise was drawn first, and the edit goes on from there
            draw_noise(inverted.noise.shape, generator, torch.empty(0))
        return _Source(clean, inverted)
    if clean is None:
        noise = drawn_noise(model, [generator], request.size)
        return _Source(None, Inversion("drawn", noise, plan.timesteps, prompt=prompt))
    if not plan.inversion or image is None:
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return _Source(clean, Inversion("picture", noise, plan.timesteps, trajectory=clean[None], prompt=prompt))
    start = inverted_image(
        model, clean, image, plan.inversion, prompt, negative_prompt=request.negative_prompt or "",
        seed=request.seed, guidance_scale=request.source_guidance_scale or 1.0,
        num_inference_steps=len(plan.timesteps), generator=generator, watch=watch.during("inverting"),
        encode_steps=request.encode_steps, **(request.inversion_options or {}),
    )  # fmt: skip
    return _Source(clean, start)


def _edited(
    model: Model,
    plan: EditPlan,
    start: Inversion,
    masked: MaskedRun | None,
    generator: Generators,
    mix: PromptMix | None,
    watch: Watch,
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
        guidance_interval=request.guidance_interval,
        cache_interval=request.cache_interval,
        source_guidance_scale=request.source_guidance_scale,
        generator=generator,
        mask=None if masked is None else masked.hook.inside,
        mix=mix,
        on_step=() if masked is None else (masked.hook,),
        watch=watch,
    )
    return plan.method.function(task, **request.options)


@torch.no_grad()
def _decoded(model: Model, edited: LatentEdit, clean: Tensor | None, masked: MaskedRun | None) -> _Decoded:
    """The images of all latents, under a mask with those of the image outside it."""
    final, tried = edited.latents[:, 0], [candidate.latents for candidate in edited.candidates]
    if masked is not None:
        final = torch.cat([final[:1], masked.latents(final[1:])])
        tried = [masked.latents(latents) for latents in tried]
    reconstruction, *edits = to_images(model.decode_latents(final))
    ceiling = None
    if clean is not None:  # where the source is pinned, it ends at the image's own latents
        pinned = torch.equal(final[:1], clean.to(final))
        ceiling = reconstruction if pinned else to_images(model.decode_latents(clean))[0]
    return _Decoded(reconstruction, edits, [to_images(model.decode_latents(latents))[0] for latents in tried], ceiling)


def _result(
    model: Model,
    plan: EditPlan,
    start: Inversion,
    edited: LatentEdit,
    decoded: _Decoded,
    masked: MaskedRun | None,
    cost: Cost,
) -> EditResult:
    """Measures the reconstruction, and assembles the result."""
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
        _pieces=tuple(tuple(pieces_of(model.text, prompt)) for prompt in prompts),
    )
