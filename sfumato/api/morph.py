"""The public verb `morph`: reads images, runs a morphing method, spaces its frames, returns them and their cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sfumato.api.arguments import boundary
from sfumato.api.common import LOW_PSNR, image_psnr, seeded
from sfumato.api.cost import Cost, measured
from sfumato.api.encoding import encoded
from sfumato.api.morph_plan import MorphPlan, plan_morph
from sfumato.api.request import recipe_of
from sfumato.api.requests import ENCODE_STEPS, MorphRequest
from sfumato.api.results import MorphResult
from sfumato.api.source_image import SourceImage
from sfumato.images import Fit, ImageSource, faded, lifted, to_images
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.drawing import drawing
from sfumato.morphs.path import Ends, Frames, MorphPath
from sfumato.morphs.spacings.base import Spaced
from sfumato.morphs.spacings.several_images import at_one_pace
from sfumato.morphs.task import MorphTask
from sfumato.registry import recorded
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

if TYPE_CHECKING:
    from PIL import Image


@boundary
def morph(
    model: Model,
    *images: ImageSource,
    prompts: str | Sequence[str] | None = None,
    method: str = "impus",
    num_frames: int = 16,
    one_pace: bool = False,
    spacing: str | None = None,
    spacing_options: Mapping[str, Any] | None = None,
    distance: str | Distance | None = None,
    negative_prompt: str = "",
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    encode_steps: int = ENCODE_STEPS,
    store: str | os.PathLike[str] | Literal[False] | None = None,
    alpha: bool = True,
    watch: Watch | None = None,
    **options: Any,
) -> MorphResult:
    """Morphs one image into another, or along a path through several.

    What a method trains is kept in `store`, so that a run that was stopped can be continued.

    Args:
        model: From `load_model`.
        images: Two or more images: path, bytes, PIL image, array or tensor each. The first again at the end makes
            a loop.
        prompts: What they show: one for all, or one each; None: empty.
        method: A name in `MORPHS`.
        num_frames: From each image to the next, both included, at least 3. n images give
            (n - 1) (num_frames - 1) + 1 frames, as images in between are shared.
        one_pace: With three images or more: the same number of frames in all, distributed by how far apart the images
            are, so that the pace stays the same; at least 3 from each image to the next.
        spacing: How the frames' weights are chosen, a name in `sfumato.morphs.spacings.base.SPACINGS`; None: the
            method's own.
        spacing_options: See `SPACINGS[spacing].parameters`.
        distance: Distance that the spacing measures between frames: a name, see
            `sfumato.judges.distances.load_distance`, or a `Distance`; None: the best for the model that is installed.
        negative_prompt: What the frames should not show.
        num_inference_steps, guidance_scale: None: the method's own choice, else the model's.
        seed: Of all draws; -1: a random one, which the recipe records.
        size: (width, height) in pixels; None: the first image's own.
        fit: What may be done when an image does not fit the model or the first image: "crop", "pad" or "resize".
        background: Colour under transparent pixels.
        encode_steps: Optimisation steps that bring the autoencoder's reconstructions closer to the images, see
            `sfumato.api.encoding`; 0 = off.
        store: Folder for what a method trains; None: `morph` in `$SFUMATO_CACHE` or ~/.cache/sfumato; False: keep none.
        alpha: Keep the transparency of transparent images: the model sees them on the background, which is removed from
            the frames again, with an alpha that fades from image to image.
        watch: Progress and cancellation; None: progress bars when stderr is a terminal.
        options: The method's own, see `MORPHS[method].parameters`.

    Raises:
        UsageError: An argument is wrong (unknown name, out of range, too few images, two equal neighbours).
        ImageError: An image cannot be read, or does not fit.
        ModelError: The model cannot honour the method.
        SamplingError: The run broke down.
        Cancelled: The watch asked to stop.
    """
    request = MorphRequest(
        images=images, prompts=prompts, method=method, num_frames=num_frames, one_pace=one_pace,
        spacing=spacing, spacing_options=spacing_options, distance=distance, negative_prompt=negative_prompt,
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, seed=seed, size=size, fit=fit,
        background=background, encode_steps=encode_steps, store=store, alpha=alpha, options=options,
    )  # fmt: skip
    return request.run(model, watch=watch)


@dataclass(frozen=True)
class _Legs:
    """The ways from each image to the next: how each is drawn, and where its frames are taken."""

    paths: Sequence[MorphPath]
    frames: Sequence[Frames]
    spaced: Sequence[Spaced]

    @property
    def weights(self) -> tuple[float, ...]:
        """Along the whole way."""
        return joined([spaced.weights for spaced in self.spaced])

    @property
    def even_distances(self) -> tuple[float, ...] | None:
        """Of frames at even weights, where all legs measured them."""
        lines = [spaced.even_distances for spaced in self.spaced]
        return None if None in lines else tuple(value for line in lines for value in line or ())

    @property
    def notes(self) -> list[str]:
        """What methods and spacings say, a note for each leg."""
        names = [f"image {k + 1} to {k + 2}: " if len(self.paths) > 1 else "" for k in range(len(self.paths))]
        legs = zip(names, self.paths, self.spaced, strict=True)
        return [name + note for name, path, spaced in legs for note in (*path.notes, *spaced.notes)]

    def drawn(self) -> list[Image.Image]:
        """All frames; those that two legs share are there once."""
        shown = [
            frames.at(spaced.weights).float().cpu() for frames, spaced in zip(self.frames, self.spaced, strict=True)
        ]
        return to_images(torch.cat([shown[0], *(frames[1:] for frames in shown[1:])]))


def run(model: Model, request: MorphRequest, watch: Watch | None = None) -> MorphResult:
    """Runs a request, see `morph`."""
    plan = plan_morph(model, request)
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        clean, ceilings = _encoded(model, plan, watching)
        legs = _legs(model, plan, clean, watching)
        decoded = legs.drawn()
    return _result(model, plan, legs, decoded, ceilings, cost)


def _encoded(model: Model, plan: MorphPlan, watch: Watch) -> tuple[Tensor, Sequence[Image.Image]]:
    """Clean latents of all images, and these decoded; of a method that needs none, none and the images themselves."""
    if not plan.method.encodes(plan.request.options):
        return torch.empty(len(plan.pictures), 0), plan.sources
    pixels = torch.cat([image.pixels for image in plan.pictures])
    clean = encoded(model, pixels, encode_steps=plan.request.encode_steps, watch=watch.during("encoding"))
    with torch.no_grad():
        return clean, to_images(torch.cat([model.decode_latents(latents[None]) for latents in clean]))


def _legs(model: Model, plan: MorphPlan, clean: Tensor, watch: Watch) -> _Legs:
    """Finds the way of each leg, and the weights of its frames."""
    request, count = plan.request, len(plan.pictures) - 1
    watches = [_numbered(watch, k, count) for k in range(count)]
    paths, frames, spaced = [], [], []
    for k, part in enumerate(watches):
        path = _path(model, plan, clean, k, part)
        spacing, options = request.spacing or plan.method.spacing, request.spacing_options or {}
        paths.append(path)
        frames.append(drawing(model, path, spacing, options, request.num_frames, watch=part))
        spaced.append(plan.space(frames[k], request.num_frames, part))
    if request.one_pace:
        spaced = at_one_pace(
            spaced,
            [None if path.weights is None else len(path.weights) for path in paths],
            lambda k, number: plan.space(frames[k], number, watches[k]),
        )
    return _Legs(paths, frames, spaced)


def _path(model: Model, plan: MorphPlan, clean: Tensor, k: int, watch: Watch) -> MorphPath:
    """Runs the method from image k to the next."""
    request, prompts, (first, second) = plan.request, plan.request.prompts or (), plan.pictures[k : k + 2]
    ends = Ends(
        torch.cat([first.pixels, second.pixels]),
        clean[k : k + 2],
        (prompts[k], prompts[k + 1]),
        (_digest(first, request.encode_steps), _digest(second, request.encode_steps)),
    )
    task = MorphTask(
        model, ends, plan.measure, seeded(request.seed), request.negative_prompt,
        request.guidance_scale or model.guidance_scale,  # the plan has filled both
        request.num_inference_steps or model.num_inference_steps, plan.store, watch,
    )  # fmt: skip
    return plan.method.function(task, **request.options)


def _result(
    model: Model,
    plan: MorphPlan,
    legs: _Legs,
    decoded: Sequence[Image.Image],
    ceilings: Sequence[Image.Image],
    cost: Cost,
) -> MorphResult:
    """Measures the reconstruction of the images, and assembles the result."""
    request, images, weights, sources = plan.request, plan.pictures, legs.weights, plan.sources
    places = [next(i for i, weight in enumerate(weights) if weight == k) for k in range(len(images))]
    ends = tuple(image_psnr(decoded[place], source) for place, source in zip(places, sources, strict=True))
    ceiling = tuple(image_psnr(image, source) for image, source in zip(ceilings, sources, strict=True))
    notes = [*plan.notes, *legs.notes]
    notes += [_far_end(k, got, best) for k, (got, best) in enumerate(zip(ends, ceiling, strict=True)) if got < LOW_PSNR]
    transparent = request.alpha and any(picture.alpha is not None for picture in images)
    frames = _lifted(decoded, weights, images, request.background) if transparent else decoded
    restore = _restore(images)
    return MorphResult(
        images=tuple(map(restore, frames)),
        weights=weights,
        distances=tuple(value for spaced in legs.spaced for value in spaced.distances),
        even_distances=legs.even_distances,
        sources=tuple(map(restore, sources)),
        endpoint_psnr=ends,
        ceiling_psnr=ceiling,
        recipe=recipe_of(
            request,
            model,
            weights=[round(weight, 6) for weight in weights],
            found=[
                recorded({**(path.record or {}), **spaced.record})
                for path, spaced in zip(legs.paths, legs.spaced, strict=True)
            ],
        ),
        cost=cost,
        notes=tuple(dict.fromkeys(notes)),
    )


def joined(legs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Weights along the whole path, of its legs' own: leg k runs from k to k + 1, and what two legs share is once."""
    return tuple(k + weight for k, leg in enumerate(legs) for weight in (leg if k == 0 else leg[1:]))


def _lifted(
    frames: Sequence[Image.Image],
    weights: Sequence[float],
    images: Sequence[SourceImage],
    background: tuple[int, int, int],
) -> list[Image.Image]:
    """The frames taken off the background, with the alpha of the images that they lie between."""
    found = []
    for frame, weight in zip(frames, weights, strict=True):
        first = min(int(weight), len(images) - 2)
        alpha = faded(images[first].alpha, images[first + 1].alpha, weight - first, frame.size)
        found.append(lifted(frame, alpha, background))
    return found


def _restore(images: Sequence[SourceImage]) -> Callable[[Image.Image], Image.Image]:
    """Cuts off padding, where all images have the same."""
    if len({picture.fitted.box for picture in images}) > 1:
        return lambda image: image
    return images[0].fitted.restore


def _digest(image: SourceImage, encode_steps: int) -> str:
    """What the store knows an image's latents by."""
    return image.digest + (f", refined {encode_steps}" if encode_steps else "")


def _far_end(k: int, got: float, ceiling: float) -> str:
    remedy = (
        f"the model's autoencoder only reaches {ceiling:.1f} dB here: use larger images or another model"
        if ceiling < LOW_PSNR + 1.0
        else "describe it better, use more steps, or lower the guidance scale"
    )
    return f"the frame of image {k + 1} differs from the image (PSNR {got:.1f} dB): {remedy}"


def _numbered(watch: Watch, k: int, count: int) -> Watch:
    """The watch of one of several legs: its stages say which."""
    report = watch.progress
    if report is None or count == 1:
        return watch
    return replace(
        watch, progress=lambda progress: report(replace(progress, stage=f"{k + 1}/{count} {progress.stage}"))
    )
