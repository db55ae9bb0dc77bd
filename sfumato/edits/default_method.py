"""The method to take where a user names none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from sfumato.models.base import Model
from sfumato.models.loading import traits_named
from sfumato.models.traits import traits_of

DEFAULTS: Final[Mapping[str, str]] = {
    "flow": "flowedit",
    "text-maps": "prompt-to-prompt",
    "diffusion": "sdedit",
}
"""The method to take where none is named, by trait (`models.traits`): the first here that the model has."""


def default_method(model: Model | str | os.PathLike[str], **where: str | None) -> str:
    """The name of the method to take with a model, or with a name to load one by.

    Args:
        model: A model, or what `load_model` takes, which is located, but not loaded.
        where: The revision and the variant, as for `load_model`.

    Raises:
        ModelError: There is no such model.
    """
    traits = traits_of(model) if isinstance(model, Model) else traits_named(model, **where)
    return next(method for trait, method in DEFAULTS.items() if trait in traits)
