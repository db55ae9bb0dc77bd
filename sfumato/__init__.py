"""sfumato: edit and morph images with pretrained diffusion models, and keep everything else as it was.

>>> model = sfumato.load_model("emoji")
>>> result = sfumato.edit(model, "cat.png", source_prompt="a cat face", target_prompt="a dog face")
>>> result.save("dog.png")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "INVERSIONS": "sfumato.registry",
    "METHODS": "sfumato.registry",
    "MORPHS": "sfumato.registry",
    "EditResult": "sfumato.results",
    "GenerateResult": "sfumato.results",
    "Inversion": "sfumato.inversion.result",
    "InvertResult": "sfumato.results",
    "MorphResult": "sfumato.results",
    "SfumatoError": "sfumato.errors",
    "TranslateResult": "sfumato.translation",
    "UsageError": "sfumato.errors",
    "Watch": "sfumato.samplers.watch",
    "edit": "sfumato.editing",
    "generate": "sfumato.generating",
    "invert": "sfumato.inverting",
    "load_model": "sfumato.models.loading",
    "morph": "sfumato.morphing",
    "slider": "sfumato.sliding",
    "translate": "sfumato.translation",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from sfumato.editing import edit as edit
    from sfumato.errors import SfumatoError as SfumatoError
    from sfumato.errors import UsageError as UsageError
    from sfumato.generating import generate as generate
    from sfumato.inversion.result import Inversion as Inversion
    from sfumato.inverting import invert as invert
    from sfumato.models.loading import load_model as load_model
    from sfumato.morphing import morph as morph
    from sfumato.registry import INVERSIONS as INVERSIONS
    from sfumato.registry import METHODS as METHODS
    from sfumato.registry import MORPHS as MORPHS
    from sfumato.results import EditResult as EditResult
    from sfumato.results import GenerateResult as GenerateResult
    from sfumato.results import InvertResult as InvertResult
    from sfumato.results import MorphResult as MorphResult
    from sfumato.samplers.watch import Watch as Watch
    from sfumato.sliding import slider as slider
    from sfumato.translation import TranslateResult as TranslateResult
    from sfumato.translation import translate as translate


class _Package(ModuleType):
    """`edit` and `morph` are functions here and folders beside: importing a folder must not put it in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
