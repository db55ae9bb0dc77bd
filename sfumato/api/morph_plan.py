"""A morph before the network runs: what was left open is decided, images are read, and all is checked."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sfumato.adaptation.store import Store
from sfumato.api.common import check_prompts, warn
from sfumato.api.origin import Origin
from sfumato.api.requests import MorphRequest
from sfumato.api.source_image import SourceImage, read_source
from sfumato.errors import ImageError, UsageError
from sfumato.files import cache_folder
from sfumato.images import Fit, ImageSource
from sfumato.judges.distances import PIXEL_NOTE, load_distance
from sfumato.metrics.distance import Distance, PixelDistance
from sfumato.models.base import Model
from sfumato.models.traits import check_needs
from sfumato.morphs.method import MORPHS, MorphMethod
from sfumato.morphs.path import Frames
from sfumato.morphs.spacings.base import SPACINGS, Spaced
from sfumato.watch import Watch

if TYPE_CHECKING:
    from PIL import Image

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class MorphPlan:
    """A morph with everything decided, read and checked; nothing is left open in the request."""

    request: MorphRequest
    pictures: Sequence[SourceImage]
    measure: Distance
    store: Store | None
    notes: tuple[str, ...]

    @property
    def method(self) -> MorphMethod:
        return MORPHS[self.request.method]

    @property
    def sources(self) -> list[Image.Image]:
        return [image.fitted.image for image in self.pictures]

    def space(self, frames: Frames, num_frames: int, watch: Watch) -> Spaced:
        """Chooses the weights of one leg's frames."""
        spacing, options = SPACINGS[self.request.spacing or self.method.spacing], self.request.spacing_options or {}
        return spacing(frames, self.measure, num_frames, watch=watch, **options)


def plan_morph(model: Model, request: MorphRequest) -> MorphPlan:
    """Decides, reads and checks all that can be before the network runs."""
    entry, count = MORPHS[request.method], len(request.images)
    check_needs("morph", entry.name, MORPHS, model)
    prompts = tuple(request.prompts or ("",))
    prompts = prompts if len(prompts) == count else prompts * count
    prompt_notes = check_prompts(prompts=prompts, negative_prompt=request.negative_prompt)
    steps, guidance = request.num_inference_steps, request.guidance_scale
    steps = suited_steps(model, entry) if steps is None else steps
    model.schedule.timesteps(steps, latent_size=model.latent_shape()[1:])  # as many as there can be
    images = _read(model, request.images, request.size, request.fit, request.background)
    measure = load_distance(request.distance, model)
    notes = [*model.notes, *prompt_notes, *(note for image in images for note in image.notes)]
    return MorphPlan(
        replace(
            request,
            images=[image.origin for image in images],
            prompts=prompts,
            num_inference_steps=steps,
            guidance_scale=suited_guidance(model, entry) if guidance is None else guidance,
            distance=measure,
            options={**model.method_options.get(entry.name, {}), **request.options},
        ),
        images,
        measure,
        _store(request.store),
        (*notes, *distance_notes(request.distance, measure)),
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
        warn(f"{error}; what this run trains is not kept")
        return None
    return store


def _first(*given: Number | None) -> Number:
    """The first that was given."""
    return next(value for value in given if value is not None)


def _read(
    model: Model,
    images: Sequence[ImageSource | Origin],
    size: tuple[int, int] | None,
    fit: Fit | None,
    background: tuple[int, int, int],
) -> list[SourceImage]:
    """The images, all of the first one's size, no two neighbours equal."""
    pictures = [read_source(model, images[0], size, fit, background)]
    first = pictures[0].fitted.image.size
    for image in images[1:]:
        try:
            pictures.append(read_source(model, image, first, fit, background))
        except ImageError as error:
            if fit is not None or "asked for" not in str(error):
                raise
            raise ImageError(
                f"the images of a morph must have one size; image 1 has {first[0]}x{first[1]} pixels, but for"
                f" image {len(pictures) + 1}: {error}"
            ) from error
    for k, (one, other) in enumerate(itertools.pairwise(pictures)):
        if one.digest == other.digest:
            raise UsageError(f"images {k + 1} and {k + 2} are identical: there is nothing to morph between them")
    return pictures
