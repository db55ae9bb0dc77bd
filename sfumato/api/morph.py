"""The public driver `morph`: reads pictures, runs a morphing method, spaces its frames, hands them back with a bill."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

import sfumato
from sfumato.adaptation.store import Store
from sfumato.api.arguments import boundary
from sfumato.api.common import LOW_PSNR, image_psnr, told_of_prompts
from sfumato.api.cost import measured
from sfumato.api.encoding import encoded
from sfumato.api.results import MorphResult
from sfumato.api.source_image import Picture, read_picture
from sfumato.errors import ImageError, UsageError
from sfumato.files import cache_folder
from sfumato.images import Fit, ImageSource, faded, lifted, to_images
from sfumato.judges.distances import PIXEL_NOTE, load_distance
from sfumato.metrics.distance import Distance, PixelDistance
from sfumato.models.base import Model
from sfumato.morphs.drawing import drawing
from sfumato.morphs.path import Ends, Frames, MorphPath
from sfumato.morphs.spacings.base import SPACINGS, Spaced
from sfumato.morphs.spacings.several_images import at_one_pace
from sfumato.registry import MORPHS, MorphMethod, recorded
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch, progress_bar

if TYPE_CHECKING:
    from PIL import Image

Number = TypeVar("Number", int, float)

ENCODE_STEPS = 20
"""With `emoji` they bring the twelve bundled pictures back 2 to 4 dB nearer, in 1.3 s of one thread each."""


@boundary()
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
    """Morphs one picture into another, or along a path through several.

    A run that is stopped goes on where it was when it is started again: what a method trains is kept in `store`.

    Args:
        model: From `load_model`.
        images: Two or more pictures: path, bytes, PIL picture, array or tensor each. The first again at the end makes
            a circle.
        prompts: What they show: one for all, or one each; None: nothing is said.
        method: A name in `MORPHS`.
        num_frames: From each picture to the next, both of them counted, at least 3. Through n pictures there are
            (n - 1) (num_frames - 1) + 1 frames: pictures on the way are there once.
        one_pace: Through three pictures or more: as many frames in all, but shared out among the legs by how far apart
            the pictures are, so that the pace stays the same; at least 3 a leg, both pictures counted.
        spacing: How the frames' weights are chosen, a name in `sfumato.morphs.spacings.base.SPACINGS`; None: the
            method's own.
        spacing_options: See `SPACINGS[spacing].parameters`.
        distance: What the spacing looks through: a name, see `sfumato.judges.distances.load_distance`, or a `Distance`;
            None: the best that is there.
        negative_prompt: What guidance leads away from.
        num_inference_steps, guidance_scale: None: the method's own choice, else the model's.
        seed: Of all draws; -1: a random one, which the recipe records.
        size: (width, height) in pixels; None: the first picture's own.
        fit: What may be done when a picture does not fit the model or the first picture: "crop", "pad" or "resize".
        background: Colour under transparent pixels.
        encode_steps: Steps that bring what the autoencoder gives back of the pictures nearer to them, see
            `sfumato.api.encoding`; 0: none.
        store: Folder of what methods train; None: `morph` in `$SFUMATO_CACHE` or ~/.cache/sfumato; False: keep nothing.
        alpha: Where an image is transparent, give frames that are transparent, too: the model sees the images on the
            background, and the frames are taken off it again with an alpha that fades from image to image.
        watch: Progress and cancellation; None: progress bars when stderr is a terminal.
        options: The method's own, see `MORPHS[method].parameters`.

    Raises:
        UsageError: An argument is wrong (unknown name, out of range, too few pictures, two equal neighbours).
        ImageError: A picture cannot be read, or does not fit.
        ModelError: The model cannot honour the method.
        SamplingError: The run broke down.
        Cancelled: The watch asked to stop.
    """
    entry = MORPHS[method]
    options = {**model.method_options.get(method, {}), **entry.check_options(options)}
    spacing_name = entry.spacing if spacing is None else spacing
    spacing_options = SPACINGS[spacing_name].check_options(spacing_options or {})
    if one_pace and SPACINGS[spacing_name].sets_num_frames:
        raise UsageError(f"one_pace shares out frames, but spacing {spacing_name} finds their number itself")
    said = _prompts(prompts, len(images))
    told = told_of_prompts(prompts=said, negative_prompt=negative_prompt)
    steps = suited_steps(model, entry) if num_inference_steps is None else num_inference_steps
    model.schedule.timesteps(steps)  # as many as there can be
    guidance = suited_guidance(model, entry) if guidance_scale is None else guidance_scale
    pictures = _read(model, images, size, fit, background)
    measure = load_distance(distance, model)
    kept = _store(store)

    sources = [picture.fitted.image for picture in pictures]
    paths: list[MorphPath] = []
    drawn: list[Frames] = []
    spacings: list[Spaced] = []
    with progress_bar(watch=watch) as watching, taking_turns(model, watch=watching), measured(model) as cost:
        pixels = torch.cat([picture.pixels for picture in pictures])
        clean, ceilings = torch.empty(len(pictures), 0), sources
        if entry.encodes(options):
            clean = encoded(model, pixels, encode_steps=encode_steps, watch=watching.during("encoding"))
            with torch.no_grad():
                ceilings = to_images(torch.cat([model.decode_latents(latents[None]) for latents in clean]))
        parts = [_numbered(watching, k, len(pictures) - 1) for k in range(len(pictures) - 1)]
        for k, part in enumerate(parts):
            pair = slice(k, k + 2)
            path: MorphPath = entry.function(
                model,
                Ends(
                    pixels[pair],
                    clean[pair],
                    (said[k], said[k + 1]),
                    (_digest(pictures[k], encode_steps), _digest(pictures[k + 1], encode_steps)),
                ),
                negative_prompt=negative_prompt,
                guidance_scale=guidance,
                num_inference_steps=steps,
                distance=measure,
                generator=torch.Generator().manual_seed(seed),
                store=kept,
                watch=part,
                **options,
            )
            frames = drawing(model, path, spacing_name, spacing_options, num_frames, watch=part)
            paths.append(path)
            drawn.append(frames)
            spacings.append(SPACINGS[spacing_name](frames, measure, num_frames, watch=part, **spacing_options))
        if one_pace:
            spacings = at_one_pace(
                spacings,
                [None if path.weights is None else len(path.weights) for path in paths],
                lambda k, count: SPACINGS[spacing_name](drawn[k], measure, count, watch=parts[k], **spacing_options),
            )
        shown = [frames.at(found.weights).float().cpu() for frames, found in zip(drawn, spacings, strict=True)]
        decoded = to_images(torch.cat([shown[0], *(frames[1:] for frames in shown[1:])]))

    weights = joined([found.weights for found in spacings])
    even = [found.even_distances for found in spacings]
    places = [next(i for i, weight in enumerate(weights) if weight == k) for k in range(len(pictures))]
    ends = tuple(image_psnr(decoded[place], source) for place, source in zip(places, sources, strict=True))
    ceiling = tuple(image_psnr(image, source) for image, source in zip(ceilings, sources, strict=True))
    legs = [f"picture {k + 1} to {k + 2}: " if len(paths) > 1 else "" for k in range(len(paths))]
    notes = [
        *model.notes,
        *told,
        *(note for picture in pictures for note in picture.notes),
        *distance_notes(distance, measure),
    ]
    for leg, path, found in zip(legs, paths, spacings, strict=True):
        notes += [leg + note for note in (*path.notes, *found.notes)]
    notes += [_far_end(k, got, best) for k, (got, best) in enumerate(zip(ends, ceiling, strict=True)) if got < LOW_PSNR]
    transparent = alpha and any(picture.alpha is not None for picture in pictures)
    shown_frames = _lifted(decoded, weights, pictures, background) if transparent else decoded
    restore = _restore(pictures)
    recipe: dict[str, Any] = {
        "command": "morph",
        "sfumato": sfumato.__version__,
        **model.recipe,
        "method": method,
        "options": recorded(options),
        "prompts": list(said),
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_frames": num_frames,
        "one_pace": one_pace,
        "spacing": spacing_name,
        "spacing_options": recorded(spacing_options),
        "distance": measure.name,
        "seed": seed,
        "size": list(size) if size else None,
        "fit": fit,
        "background": list(background),
        "alpha": alpha,
        "encode_steps": encode_steps,
        "images": [picture.origin for picture in pictures],
        "weights": [round(weight, 6) for weight in weights],
        "found": [
            recorded({**(path.record or {}), **found.record}) for path, found in zip(paths, spacings, strict=True)
        ],
    }
    return MorphResult(
        images=tuple(restore(image) for image in shown_frames),
        weights=weights,
        distances=tuple(value for found in spacings for value in found.distances),
        even_distances=None if None in even else tuple(value for line in even for value in line or ()),
        sources=tuple(restore(source) for source in sources),
        endpoint_psnr=ends,
        ceiling_psnr=ceiling,
        recipe=recipe,
        cost=cost,
        notes=tuple(dict.fromkeys(notes)),
    )


def distance_notes(asked: str | Distance | None, measure: Distance) -> list[str]:
    """What to tell a user who left the choice of the distance to us."""
    return [PIXEL_NOTE] if asked is None and isinstance(measure, PixelDistance) else []


def suited_guidance(model: Model, method: MorphMethod) -> float:
    """Guidance where the user says nothing: what suits the model, else the method's own, else the model's."""
    own = None if model.few_steps else method.guidance_scale
    return _first(model.method_guidance.get(method.name), own, model.guidance_scale)


def suited_steps(model: Model, method: MorphMethod) -> int:
    """Steps where the user says nothing: those of a few-step model, else the method's own, else the model's."""
    return _first(None if model.few_steps else method.num_inference_steps, model.num_inference_steps)


def default_store() -> Path:
    """Where adaptations are kept: `$SFUMATO_CACHE/morph`, or `~/.cache/sfumato/morph`."""
    return cache_folder("morph")


def _store(asked: str | os.PathLike[str] | Literal[False] | None) -> Store | None:
    """The store, found to be writable; none, with a warning, where the default one is not.

    Raises:
        UsageError: The folder asked for cannot be written.
    """
    if asked is False:
        return None
    store = Store(default_store() if asked is None else asked)
    try:
        store.check()
    except UsageError as error:
        if asked is not None:
            raise
        warnings.warn(f"{error}; what this run trains is not kept", stacklevel=3)
        return None
    return store


def joined(legs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Weights along the whole path, of its legs' own: leg k runs from k to k + 1, and what two legs share is once."""
    return tuple(k + weight for k, leg in enumerate(legs) for weight in (leg if k == 0 else leg[1:]))


def _first(*given: Number | None) -> Number:
    """The first that was given."""
    return next(value for value in given if value is not None)


def _prompts(prompts: str | Sequence[str] | None, count: int) -> tuple[str, ...]:
    if count < 2:
        raise UsageError(f"a morph needs at least two pictures, got {count}")
    given = [prompts or ""] if prompts is None or isinstance(prompts, str) else list(prompts)
    if len(given) not in (1, count):
        raise UsageError(f"prompts must be one for all or one for each of {count} pictures, got {len(given)}")
    return tuple(given if len(given) == count else given * count)


def _read(
    model: Model,
    images: Sequence[ImageSource],
    size: tuple[int, int] | None,
    fit: Fit | None,
    background: tuple[int, int, int],
) -> list[Picture]:
    """The pictures, all of the first one's size, no two neighbours equal."""
    pictures = [read_picture(model, images[0], size, fit, background)]
    first = pictures[0].fitted.image.size
    for image in images[1:]:
        try:
            pictures.append(read_picture(model, image, first, fit, background))
        except ImageError as error:
            if fit is not None or "asked for" not in str(error):
                raise
            raise ImageError(
                f"the pictures of a morph must have one size; picture 1 has {first[0]}x{first[1]} pixels, but for"
                f" picture {len(pictures) + 1}: {error}"
            ) from error
    for k, (one, other) in enumerate(itertools.pairwise(pictures)):
        if one.origin["sha256"] == other.origin["sha256"]:
            raise UsageError(f"pictures {k + 1} and {k + 2} are identical: there is nothing to morph between them")
    return pictures


def _lifted(
    frames: Sequence[Image.Image],
    weights: Sequence[float],
    pictures: Sequence[Picture],
    background: tuple[int, int, int],
) -> list[Image.Image]:
    """The frames taken off the background, with the alpha of the images that they lie between."""
    found = []
    for frame, weight in zip(frames, weights, strict=True):
        first = min(int(weight), len(pictures) - 2)
        alpha = faded(pictures[first].alpha, pictures[first + 1].alpha, weight - first, frame.size)
        found.append(lifted(frame, alpha, background))
    return found


def _restore(pictures: Sequence[Picture]) -> Callable[[Image.Image], Image.Image]:
    """Cuts off padding, where all pictures have the same."""
    if len({picture.fitted.box for picture in pictures}) > 1:
        return lambda image: image
    return pictures[0].fitted.restore


def _digest(picture: Picture, encode_steps: int) -> str:
    """What the store knows a picture's latents by."""
    return str(picture.origin["sha256"]) + (f", refined {encode_steps}" if encode_steps else "")


def _far_end(k: int, got: float, ceiling: float) -> str:
    remedy = (
        f"the model's autoencoder only reaches {ceiling:.1f} dB here: use larger pictures or another model"
        if ceiling < LOW_PSNR + 1.0
        else "describe it better, use more steps, or less guidance"
    )
    return f"picture {k + 1} does not come back in its frame (PSNR {got:.1f} dB): {remedy}"


def _numbered(watch: Watch, k: int, count: int) -> Watch:
    """The watch of one of several legs: its stages say which."""
    report = watch.progress
    if report is None or count == 1:
        return watch
    return replace(
        watch, progress=lambda progress: report(replace(progress, stage=f"{k + 1}/{count} {progress.stage}"))
    )
