"""The public boundary: what the arguments of `edit`, `morph`, `generate`, `invert`, `slider` and `translate` may be.

An argument means the same in every verb, so one table of names and checks serves them all: requests hold their values
to it, and recipes in images are requests. The checks give the values as they are used: numpy's numbers as Python's, a
random seed for -1, one prompt or several as a list.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ParamSpec, TypeVar

from sfumato import checks
from sfumato.api.origin import Origin
from sfumato.checks import Check, optional
from sfumato.errors import UsageError
from sfumato.images.fitting import FITS
from sfumato.inversions.result import Inversion
from sfumato.judges.distances import DISTANCES
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.registry import unknown
from sfumato.watch import Watch

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

MAX_FRAMES = 10_000
MAX_IMAGES = 1_000
MAX_TARGETS = 100
FEWEST_FRAMES = 3

_name = partial(checks.text, most=200)
_steps = optional(partial(checks.whole, low=1))
_source = partial(checks.text, empty="say what the image shows, such as 'a cat'")
_target = partial(checks.text, empty="say what the result should show, such as 'a dog'")


def one_or_several(check: Check, *, empty: str = "give at least one", most: int = checks.MAX_LIST) -> Check:
    """A check of one text or a list of texts, which gives a list."""

    def several(name: str, value: Any) -> list[Any]:
        if isinstance(value, str):
            return [check(name, value)]
        found = checks.listed(name, value, check, most=most)
        if not found:
            raise UsageError(f"{name} is empty: {empty}")
        return found

    return several


def _inverted(name: str, value: Any) -> Inversion | Origin:
    if isinstance(value, Origin):
        return value
    return checks.instance(name, value, Inversion, "an Inversion (from sfumato.invert, or Inversion.load)")


def _distance(name: str, value: Any) -> str | Distance:
    if isinstance(value, str):
        if value not in DISTANCES:
            raise UsageError(unknown(name, value, DISTANCES))
        return value
    if not (isinstance(value, Distance) and callable(value)):
        raise checks.refuse(name, "a name or a Distance (a callable with a name)", value)
    return value


def _images(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise checks.refuse(name, "a list of images", value)
    if len(value) > MAX_IMAGES:
        raise UsageError(f"{name} must have at most {MAX_IMAGES} images, got {len(value)}")
    return list(value)


def _watch(name: str, value: Any) -> Watch:
    watch = checks.instance(name, value, Watch, "a sfumato.Watch")
    for part in ("progress", "cancelled", "preview"):
        if getattr(watch, part) is not None and not callable(getattr(watch, part)):
            raise checks.refuse(f"{name}.{part}", "a function, or None", getattr(watch, part))
    checks.whole(f"{name}.preview_every", watch.preview_every, low=1)
    return watch


def num_frames(name: str, value: Any) -> int:
    """Frames of a morph or slider, both ends counted."""
    try:
        return checks.whole(name, value, low=FEWEST_FRAMES, high=MAX_FRAMES)
    except UsageError:
        wanted = f"at least {FEWEST_FRAMES} (both ends are frames) and at most {MAX_FRAMES}, a whole number"
        raise checks.refuse(name, wanted, value) from None


def _store(name: str, value: Any) -> str | os.PathLike[str] | bool:
    return value if value is False else checks.path(name, value)


ARGUMENTS: Mapping[str, Check] = {
    "watch": optional(_watch),
    # texts
    "prompt": checks.text,
    "prompts": optional(one_or_several(checks.text)),
    "source_prompt": _source,
    "target_prompt": one_or_several(
        _target, empty="say what the result should show, such as 'a dog'", most=MAX_TARGETS
    ),
    "negative_prompt": checks.text,
    # what runs, and how long
    "method": _name,
    "fast": checks.flag,
    "options": checks.table,
    "inversion": optional(_name),
    "inversion_options": optional(checks.table),
    "inverted": optional(_inverted),
    "spacing": optional(_name),
    "spacing_options": optional(checks.table),
    "distance": optional(_distance),
    "num_inference_steps": _steps,
    "encode_steps": partial(checks.whole, low=0),
    "guidance_scale": optional(checks.guidance),
    "guidance_interval": checks.interval,
    "cache_interval": partial(checks.whole, low=1, high=100),
    "source_guidance_scale": optional(checks.guidance),
    "seed": checks.seed,
    "num_frames": num_frames,
    "num_images": partial(checks.whole, low=1, high=MAX_IMAGES),
    "one_pace": checks.flag,
    "alpha": checks.flag,
    "store": optional(_store),
    # images
    "images": _images,
    "size": optional(checks.size),
    "fit": optional(partial(checks.choice, allowed=FITS)),
    "background": checks.colour,
    "mask_words": optional(one_or_several(partial(checks.text, empty="give words of the source prompt"))),
    "mask_threshold": partial(checks.number, above=0.0, below=1.0),
    "mask_feather": partial(checks.number, low=0.0),
    "mask_invert": checks.flag,
    "mask_pixels": checks.flag,
}


def boundary(verb: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Makes a function a public verb: a call that does not fit its signature is a UsageError, too."""
    signature = inspect.signature(verb)

    @functools.wraps(verb)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(_misfit(verb.__name__, signature, kwargs, error)) from error
        return verb(*args, **kwargs)

    return checked


def check_model(name: str, value: Any, negative_prompt: str | None = None) -> Model:
    """A model, and one that has a place for the negative prompt, where there is one.

    Raises:
        UsageError: It is none; or it takes its guidance scale as an input and no negative prompt.
    """
    model = checks.instance(name, value, Model, "a model from sfumato.load_model")  # type: ignore[type-abstract]
    if model.takes_guidance and (negative_prompt or "").strip():
        raise UsageError(
            f"negative_prompt: {model.name} takes its guidance scale as an input (LCM, FLUX dev) and has no"
            " unconditional prediction; leave the negative prompt out"
        )
    return model


def _misfit(verb: str, signature: inspect.Signature, kwargs: Mapping[str, Any], error: TypeError) -> str:
    for name in kwargs:
        if name not in signature.parameters:
            return unknown("argument", name, list(signature.parameters), of=f" of {verb}")
    return f"{verb}: {error}"
