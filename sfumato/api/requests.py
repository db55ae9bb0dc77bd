"""Requests of all public verbs: `EditRequest` holds the arguments of `sfumato.edit`, and so on.

`request.run(model)` does what the verb does; see `sfumato.api.request` for JSON and checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from sfumato import checks
from sfumato.api.edit_request import EditRequest as EditRequest  # all requests are found here
from sfumato.api.edit_request import SliderRequest as SliderRequest
from sfumato.api.origin import Origin
from sfumato.api.request import WHITE, Request
from sfumato.checks import Check, optional
from sfumato.errors import UsageError
from sfumato.images import Fit, ImageSource
from sfumato.inversions.method import INVERSIONS
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.method import MORPHS
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.registry import unknown
from sfumato.sampling.layout import WHOLE_RUN
from sfumato.sampling.samplers import SAMPLERS
from sfumato.watch import Watch

if TYPE_CHECKING:
    import os

    from sfumato.api.results import GenerateResult, InvertResult, MorphResult
    from sfumato.api.translate import TranslateResult

ENCODE_STEPS = 20
"""Of morphs. With `emoji` they bring the twelve bundled images back 2 to 4 dB nearer, in 1.3 s of one thread each."""


@dataclass(frozen=True, kw_only=True)
class MorphRequest(Request):
    """All arguments of `sfumato.morph`, where they are explained; `options` are the method's own."""

    command = "morph"

    images: Sequence[ImageSource | Origin]
    prompts: str | Sequence[str] | None = None
    method: str = "impus"
    num_frames: int = 16
    one_pace: bool = False
    spacing: str | None = None
    spacing_options: Mapping[str, Any] | None = None
    distance: str | Distance | None = None
    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    background: tuple[int, int, int] = WHITE
    encode_steps: int = ENCODE_STEPS
    store: str | os.PathLike[str] | Literal[False] | None = None
    alpha: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: Model, *, watch: Watch | None = None) -> MorphResult:
        """As `sfumato.morph`."""
        from sfumato.api.morph import run

        self.check_models(watch, model=model)
        return run(model, self, watch)

    def _check_options(self) -> None:
        entry, count = MORPHS[self.method], len(self.images)
        if count < 2:
            raise UsageError(f"a morph needs at least two images, got {count}")
        given = self.prompts or ("",)
        if len(given) not in (1, count):
            raise UsageError(f"prompts must be one for all or one for each of {count} images, got {len(given)}")
        spacing = SPACINGS[entry.spacing if self.spacing is None else self.spacing]
        if self.one_pace and spacing.sets_num_frames:
            raise UsageError(f"one_pace shares out frames, but spacing {spacing.name} finds their number itself")
        self._set(
            options=entry.check_options(self.options),
            spacing=spacing.name,
            spacing_options=spacing.check_options(self.spacing_options or {}),
        )


@dataclass(frozen=True, kw_only=True)
class InvertRequest(Request):
    """All arguments of `sfumato.invert`, where they are explained; `options` are the inversion's own."""

    command = "invert"
    json_names: ClassVar[Mapping[str, str]] = {"prompt": "source_prompt", "method": "inversion"}

    image: ImageSource | Origin
    prompt: str = ""
    negative_prompt: str = ""
    method: str = "direct"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    background: tuple[int, int, int] = WHITE
    encode_steps: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: Model, *, watch: Watch | None = None) -> InvertResult:
        """As `sfumato.invert`."""
        from sfumato.api.invert import run

        self.check_models(watch, model=model)
        return run(model, self, watch)

    def _check_options(self) -> None:
        self._set(options=INVERSIONS[self.method].check_options(self.options))


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(Request):
    """All arguments of `sfumato.generate`, where they are explained."""

    command = "generate"
    own_checks: ClassVar[Mapping[str, Check]] = {
        "eta": partial(checks.number, low=0.0, high=1.0),
        "sampler": optional(partial(checks.choice, allowed=list(SAMPLERS))),
    }

    prompt: str
    negative_prompt: str = ""
    num_images: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] = WHOLE_RUN
    cache_interval: int = 1
    sampler: str | None = None
    eta: float = 0.0
    seed: int = 0
    size: tuple[int, int] | None = None

    def run(self, model: Model, *, watch: Watch | None = None) -> GenerateResult:
        """As `sfumato.generate`."""
        from sfumato.api.generate import run

        self.check_models(watch, model=model)
        return run(model, self, watch)


TranslationMethod = Literal["cycle-diffusion", "ddib"]


@dataclass(frozen=True, kw_only=True)
class TranslateRequest(Request):
    """All arguments of `sfumato.translate`, where they are explained.

    In JSON, what was given of `strength`, `eta`, `refine_strength` and `refine_repeats` is one object `options`.
    """

    command = "translate"
    own_checks: ClassVar[Mapping[str, Check]] = {
        "method": partial(checks.choice, allowed=get_args(TranslationMethod)),
        "target_prompt": checks.text,
        "source_prompt": checks.text,
        "guidance_scale": checks.guidance,
        "source_guidance_scale": checks.guidance,
        "strength": optional(partial(checks.number, above=0.0, high=1.0)),
        "eta": optional(
            partial(checks.number, above=0.0, high=1.0, hint=": at 0 no draws are shared; ddib needs none")
        ),
        "refine_strength": optional(partial(checks.number, low=0.0, high=1.0)),
        "refine_repeats": optional(partial(checks.whole, low=1)),
        "reconstruct_source": checks.flag,
    }

    image: ImageSource | Origin
    method: TranslationMethod = "cycle-diffusion"
    source_prompt: str = ""
    target_prompt: str = ""
    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float = 1.0
    source_guidance_scale: float = 1.0
    strength: float | None = None
    eta: float | None = None
    refine_strength: float | None = None
    refine_repeats: int | None = None
    reconstruct_source: bool = False
    seed: int = 0
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    background: tuple[int, int, int] = WHITE

    @property
    def prompts(self) -> dict[str, str]:
        """All prompts by name."""
        return {name: getattr(self, name) for name in ("source_prompt", "target_prompt", "negative_prompt")}

    @property
    def options(self) -> dict[str, Any]:
        """What was given of the method's options."""
        return {name: value for name in TRANSLATION_OPTIONS if (value := getattr(self, name)) is not None}

    def run(self, model_a: Model, model_b: Model, *, watch: Watch | None = None) -> TranslateResult:
        """As `sfumato.translate`."""
        from sfumato.api.translate import run

        self.check_models(watch, model_a=model_a, model_b=model_b)
        return run(model_a, model_b, self, watch)

    def _check_options(self) -> None:
        drawing = [name for name in self.options if name != "strength"]
        if self.method == "ddib" and drawing:
            raise UsageError(f"ddib draws no noise and has no refinement: leave out {', '.join(drawing)}")
        if self.method == "ddib" and self.source_guidance_scale != 1.0:
            given = f"{self.source_guidance_scale:g}"
            raise UsageError(f"ddib inverts without guidance: source_guidance_scale must be 1, got {given}")

    def to_json(self) -> dict[str, Any]:
        values = {name: value for name, value in super().to_json().items() if name not in TRANSLATION_OPTIONS}
        return {**values, "options": self.options}

    @classmethod
    def _json_checks(cls) -> dict[str, Check]:
        found = {name: check for name, check in super()._json_checks().items() if name not in TRANSLATION_OPTIONS}
        return {**found, "options": _translation_options}

    @classmethod
    def _arguments(cls, values: dict[str, Any]) -> dict[str, Any]:
        options = values.pop("options", {})
        return {**values, **options}


TRANSLATION_OPTIONS = ("eta", "refine_strength", "refine_repeats", "strength")


def _translation_options(name: str, value: Any) -> dict[str, Any]:
    for key in checks.table(name, value):
        if key not in TRANSLATION_OPTIONS:
            raise UsageError(unknown("option", key, list(TRANSLATION_OPTIONS), of=" of translate"))
    return dict(value)
