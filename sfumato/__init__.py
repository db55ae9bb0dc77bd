"""sfumato: edit and morph images with pretrained diffusion models, and keep everything else as it was.

>>> model = sfumato.load_model("emoji")
>>> result = sfumato.edit(model, "cat.png", source_prompt="a cat", target_prompt="a dog")
>>> result.save("dog.png")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "INVERSIONS": "sfumato.inversions.method",
    "METHODS": "sfumato.edits.method",
    "MORPHS": "sfumato.morphs.method",
    "EditRequest": "sfumato.api.requests",
    "EditResult": "sfumato.api.results",
    "GenerateRequest": "sfumato.api.requests",
    "GenerateResult": "sfumato.api.results",
    "Inversion": "sfumato.inversions.result",
    "DistillResult": "sfumato.api.distill",
    "InvertRequest": "sfumato.api.requests",
    "InvertResult": "sfumato.api.results",
    "MorphRequest": "sfumato.api.requests",
    "MorphResult": "sfumato.api.results",
    "SfumatoError": "sfumato.errors",
    "SliderRequest": "sfumato.api.requests",
    "TranslateRequest": "sfumato.api.requests",
    "TranslateResult": "sfumato.api.translate",
    "UsageError": "sfumato.errors",
    "Watch": "sfumato.watch",
    "distill": "sfumato.api.distill",
    "edit": "sfumato.api.edit",
    "edit_many": "sfumato.api.several_edits",
    "generate": "sfumato.api.generate",
    "invert": "sfumato.api.invert",
    "load_distilled": "sfumato.distillation.distilled",
    "load_model": "sfumato.models.loading",
    "morph": "sfumato.api.morph",
    "read_request": "sfumato.api.recipe",
    "slider": "sfumato.api.slider",
    "translate": "sfumato.api.translate",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from sfumato.api.distill import DistillResult as DistillResult
    from sfumato.api.distill import distill as distill
    from sfumato.api.edit import edit as edit
    from sfumato.api.generate import generate as generate
    from sfumato.api.invert import invert as invert
    from sfumato.api.morph import morph as morph
    from sfumato.api.recipe import read_request as read_request
    from sfumato.api.requests import EditRequest as EditRequest
    from sfumato.api.requests import GenerateRequest as GenerateRequest
    from sfumato.api.requests import InvertRequest as InvertRequest
    from sfumato.api.requests import MorphRequest as MorphRequest
    from sfumato.api.requests import SliderRequest as SliderRequest
    from sfumato.api.requests import TranslateRequest as TranslateRequest
    from sfumato.api.results import EditResult as EditResult
    from sfumato.api.results import GenerateResult as GenerateResult
    from sfumato.api.results import InvertResult as InvertResult
    from sfumato.api.results import MorphResult as MorphResult
    from sfumato.api.several_edits import edit_many as edit_many
    from sfumato.api.slider import slider as slider
    from sfumato.api.translate import TranslateResult as TranslateResult
    from sfumato.api.translate import translate as translate
    from sfumato.distillation.distilled import load_distilled as load_distilled
    from sfumato.edits.method import METHODS as METHODS
    from sfumato.errors import SfumatoError as SfumatoError
    from sfumato.errors import UsageError as UsageError
    from sfumato.inversions.method import INVERSIONS as INVERSIONS
    from sfumato.inversions.result import Inversion as Inversion
    from sfumato.models.loading import load_model as load_model
    from sfumato.morphs.method import MORPHS as MORPHS
    from sfumato.watch import Watch as Watch


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
