"""Several edits in one call: those that are alike are run as one batch, and each gives what it gives by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sfumato import checks
from sfumato.api.arguments import ARGUMENTS
from sfumato.api.common import following
from sfumato.api.edit_plan import EditPlan, plan_edit
from sfumato.api.edit_run import run_plan, run_together
from sfumato.api.origin import path_of
from sfumato.api.requests import EditRequest
from sfumato.api.results import EditResult
from sfumato.errors import Cancelled, ImageError, SfumatoError, UsageError
from sfumato.images import ImageSource
from sfumato.models.base import Model
from sfumato.watch import Watch

TOGETHER = 4
"""Images in one batch, each of which is several rows of the network."""


def several(request: EditRequest, images: Sequence[ImageSource]) -> list[EditRequest]:
    """The same for several images, each with the next seed.

    Raises:
        UsageError: There is no image, one of them is None, or an inversion is given, which is of one image.
    """
    if not images:
        raise UsageError("give at least one image: the list is empty")
    for k, image in enumerate(images):
        if image is None:
            raise UsageError(f"image {k + 1} of {len(images)} is None: give an image")
    if request.inverted is not None and len(images) > 1:
        raise UsageError(f"an inversion holds one image, got {len(images)} images: give one image with it")
    images = ARGUMENTS["images"]("image", images)
    return [replace(request, image=image, seed=following(request.seed, k)) for k, image in enumerate(images)]


def run_each(
    model: Model, requests: Sequence[EditRequest], watch: Watch | None = None
) -> Iterator[tuple[int, EditResult]]:
    """Runs requests that differ in images and seeds, those of one size in batches.

    All images are read and checked before the first is run. What single runs give is given, a number and a result at a
    time, in the order of the sizes.

    Raises:
        ImageError: As of a single run; says which image it is.
    """
    requests[0].check_models(watch, model=model)
    plans = []
    for k, request in enumerate(requests):
        try:
            plans.append(plan_edit(model, request))
        except ImageError as error:
            if len(requests) == 1:
                raise
            path = path_of(request.image)
            where = f"image {k + 1} of {len(requests)}" + (f" ({path})" if path else "")
            raise ImageError(f"{where}: {error}") from error
    for batch in _batches(plans):
        yield from zip(batch, _run_batch([plans[k] for k in batch], watch), strict=True)


def edit_many(
    model: Model, requests: Sequence[EditRequest], *, watch: Watch | None = None
) -> list[EditResult | SfumatoError]:
    """Runs any requests; those that differ in image and seed alone, with images of one size, in batches.

    Args:
        model: From `load_model`.
        requests: Any number.
        watch: As in `edit`, for each batch.

    Returns:
        What a single run of each request gives, in their order: a result, or the error that it raised.

    Raises:
        UsageError: The model, the watch or a request is none.
        Cancelled: The watch asked to stop.
    """
    found: dict[int, EditResult | SfumatoError] = {}
    plans: dict[int, EditPlan] = {}
    for k, request in enumerate(requests):
        checks.instance(f"requests[{k}]", request, EditRequest, "an EditRequest")
        try:
            request.check_models(watch, model=model)
            plans[k] = plan_edit(model, request)
        except SfumatoError as error:
            found[k] = error
    numbers = list(plans)
    for batch in _batches(list(plans.values())):
        found |= _tried({numbers[k]: plans[numbers[k]] for k in batch}, watch)
    return [found[k] for k in range(len(requests))]


def _tried(plans: Mapping[int, EditPlan], watch: Watch | None) -> dict[int, EditResult | SfumatoError]:
    """Runs plans together, or one by one where that raises."""
    try:
        return dict(zip(plans, _run_batch(list(plans.values()), watch), strict=True))
    except Cancelled:
        raise
    except SfumatoError as error:
        if len(plans) == 1:
            return dict.fromkeys(plans, error)
    return {k: found for k, plan in plans.items() for found in _tried({k: plan}, watch).values()}


def _batches(plans: Sequence[EditPlan]) -> list[list[int]]:
    """Numbers of the plans that are run together: those that are alike, with images of one size, a few at a time."""
    alike: dict[Any, list[int]] = {}
    for k, plan in enumerate(plans):
        alike.setdefault(_shape(plan) or k, []).append(k)
    return [group[k : k + TOGETHER] for group in alike.values() for k in range(0, len(group), TOGETHER)]


def _shape(plan: EditPlan) -> tuple[Any, ...] | None:
    """Equal for plans that differ in image and seed alone, the images being of one size; None: run by itself."""
    if plan.shared_size is None:
        return None
    said = replace(plan.request, image=None, seed=0).to_json()
    return (id(plan.model), *plan.shared_size, plan.inversion, json.dumps(said, sort_keys=True))


def _run_batch(plans: Sequence[EditPlan], watch: Watch | None) -> list[EditResult]:
    """Runs plans together, or one by one where the device has not the memory for all of them."""
    model = plans[0].model
    try:
        return run_together(model, plans, watch)
    except torch.OutOfMemoryError:
        if len(plans) == 1:
            raise
    return [run_plan(model, plan, watch) for plan in plans]
