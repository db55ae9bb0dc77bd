"""Fast edits: a model of few steps in the place of one that has one, and the method that suits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sfumato.errors import UsageError
from sfumato.models.base import Model
from sfumato.models.loading import load_model

if TYPE_CHECKING:
    import torch

    from sfumato.api.edit_request import EditRequest

    Request = TypeVar("Request", bound=EditRequest)

FEW_STEP_MODELS: Final[Mapping[str, str]] = {"emoji": "emoji-turbo"}
"""Names of models, and of those that were distilled from them for few steps."""
METHOD: Final = "chord-edit"
OPTIONS: Final[Mapping[str, Any]] = {"cleanup": False}
"""One network call: without guidance 4 evaluations a target, source and target at two levels."""
REMEDY: Final = "take one such as emoji-turbo, sd-turbo or sdxl-turbo, or leave out fast"


def chosen(model: Model, request: Request) -> tuple[Model, Request]:
    """What a fast request is run with, and the same request with all of that said in it; any other as it is.

    Raises:
        UsageError: The model is none of few steps, and has none.
        ModelError: Its model of few steps cannot be loaded.
    """
    if not request.fast:
        return model, request
    options = {**OPTIONS, **request.options}
    return few_step_model(model), replace(request, fast=False, method=METHOD, options=options)


def few_step_model(model: Model) -> Model:
    """The model itself where it was distilled for few steps, else the one that was distilled from it.

    Raises:
        UsageError: There is none, or files were added to the model, which that one has not.
        ModelError: It cannot be loaded.
    """
    if model.few_steps:
        return model
    name = FEW_STEP_MODELS.get(model.name)
    if name is None:
        raise UsageError(f"fast needs a model that was distilled for few steps, and {model.name} is none: {REMEDY}")
    if model.parts:
        raise UsageError(f"fast takes {name}, without the files that were added to {model.name}: add them to {name}")
    return _loaded(name, str(model.device), model.dtype)


@lru_cache(maxsize=1)
def _loaded(name: str, device: str, dtype: torch.dtype) -> Model:
    return load_model(name, device=device, dtype=dtype)
