"""Requests of an edit and of a slider, which is a sequence of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sfumato import checks
from sfumato.api.arguments import ARGUMENTS
from sfumato.api.fast import METHOD
from sfumato.api.masks import MaskSource, mask_origin
from sfumato.api.origin import Origin
from sfumato.api.request import WHITE, Request
from sfumato.api.vary import Vary, check_vary
from sfumato.checks import Check, optional
from sfumato.edits.default_method import default_method
from sfumato.edits.method import METHODS, Method
from sfumato.errors import UsageError
from sfumato.images import Fit, ImageSource
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.metrics.distance import Distance
from sfumato.models.base import Model
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.sampling.layout import WHOLE_RUN
from sfumato.watch import Watch

if TYPE_CHECKING:
    from sfumato.api.results import EditResult, MorphResult

MASK_NAMES = {
    "threshold": "mask_threshold",
    "feather": "mask_feather",
    "invert": "mask_invert",
    "pixels": "mask_pixels",
}
"""What the mask in the JSON of an edit says, and the arguments that it is."""


@dataclass(frozen=True, kw_only=True)
class EditRequest(Request):
    """All arguments of `sfumato.edit`, where they are explained; `options` are the method's own.

    In JSON the targets are a list `target_prompts`, and all about the mask is one object `mask`.
    """

    command = "edit"
    own_checks: ClassVar[Mapping[str, Check]] = {
        "method": optional(ARGUMENTS["method"]), "negative_prompt": optional(checks.text),
    }  # fmt: skip
    json_names: ClassVar[Mapping[str, str]] = {"target_prompt": "target_prompts"}

    image: ImageSource | Origin | None = None
    source_prompt: str
    target_prompt: str | Sequence[str]
    method: str | None = None
    fast: bool = False
    inversion: str | None = None
    inversion_options: Mapping[str, Any] | None = None
    inverted: Inversion | Origin | None = None
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] = WHOLE_RUN
    cache_interval: int = 1
    source_guidance_scale: float | None = None
    seed: int = 0
    size: tuple[int, int] | None = None
    fit: Fit | None = None
    background: tuple[int, int, int] = WHITE
    encode_steps: int = 0
    mask: MaskSource | Origin | None = None
    mask_words: str | Sequence[str] | None = None
    mask_threshold: float = 0.4
    mask_feather: float = 0.0
    mask_invert: bool = False
    mask_pixels: bool = False
    alpha: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The target prompts."""
        return tuple(self.target_prompt)

    def run(self, model: Model, *, watch: Watch | None = None) -> EditResult:
        """As `sfumato.edit`."""
        from sfumato.api.edit_run import run

        self.check_models(watch, model=model)
        return run(model, self, watch)

    @property
    def entry(self) -> Method:
        """The method that is named."""
        assert self.method is not None, "`suited` names one"
        return METHODS[self.method]

    def suited(self, model: Model) -> Self:
        """The same with the method that suits the model, where none is named, and its options checked."""
        return self if self.method is not None else replace(self, method=default_method(model))

    def _check_options(self) -> None:
        if self.fast and self.method not in (None, METHOD):
            raise UsageError(f"fast edits by {METHOD}, not by {self.method}: leave out fast, or the method")
        if self.fast:
            self._set(method=METHOD)
        if self.method is not None:
            self._check_method(self.entry)
        if self.inversion and self.inversion_options:
            self._set(inversion_options=INVERSIONS[self.inversion].check_options(self.inversion_options))

    def _check_method(self, entry: Method) -> None:
        """Checks what depends on the method."""
        self._set(options=entry.check_options(self.options))
        if self.guidance_interval != WHOLE_RUN and not entry.guidance_interval:
            raise UsageError(
                f"guidance_interval: {entry.title} has guidance of its own, which acts at every step: leave it out,"
                " or take another method"
            )
        if self.cache_interval > 1 and not entry.cache_interval:
            raise UsageError(
                f"cache_interval: {entry.title} reads or changes the network at every step, or has steps of its own:"
                " leave it out, or take another method"
            )

    def to_json(self) -> dict[str, Any]:
        values = super().to_json()
        mask, words = values.pop("mask"), values.pop("mask_words")
        about = {said: values.pop(name) for said, name in MASK_NAMES.items()}
        values["mask"] = None if mask is words is None else {**(mask or {"path": None}), "words": words or [], **about}
        return values

    def _written(self, name: str) -> Any:
        if name == "mask" and self.mask is not None:
            return mask_origin(self.mask).to_json()
        return super()._written(name)

    @classmethod
    def _json_checks(cls) -> dict[str, Check]:
        found = super()._json_checks()
        for name in ("mask_words", *MASK_NAMES.values()):
            del found[name]
        return {**found, "target_prompts": _targets, "mask": optional(_mask)}

    @classmethod
    def _arguments(cls, values: dict[str, Any]) -> dict[str, Any]:
        mask = values.pop("mask", None)
        return super()._arguments(values) | (mask or {})


def _targets(name: str, value: Any) -> list[str]:
    return ARGUMENTS["target_prompt"](name, checks.listed(name, value, checks.text))  # type: ignore[no-any-return]


def _mask(name: str, value: Any) -> dict[str, Any]:
    """The arguments that the mask of an edit's JSON is."""
    given = checks.table(name, value)
    origin = Origin.from_json(name, {key: given.pop(key) for key in ("path", "sha256") if key in given})
    words = checks.listed(f"{name}.words", given.pop("words", []), checks.text)
    found: dict[str, Any] = {"mask": None if words else origin, "mask_words": words or None}
    for key, part in given.items():
        if key not in MASK_NAMES:
            raise UsageError(f"{name} holds {checks.shown(key)}: it has path, sha256, words, {', '.join(MASK_NAMES)}")
        found[MASK_NAMES[key]] = ARGUMENTS[MASK_NAMES[key]](f"{name}.{key}", part)
    return found


@dataclass(frozen=True, kw_only=True)
class SliderRequest(EditRequest):
    """All arguments of `sfumato.slider`: those of an edit with one target, or none, and how it is varied."""

    command = "slider"

    target_prompt: str | Sequence[str] = ()
    vary: Vary | None = None
    num_frames: int = 8
    spacing: str = "uniform"
    spacing_options: Mapping[str, Any] | None = None
    distance: str | Distance | None = None

    def __post_init__(self) -> None:
        if isinstance(self.target_prompt, tuple) and not self.target_prompt:
            self._set(target_prompt=self.source_prompt)
        super().__post_init__()

    def run(self, model: Model, *, watch: Watch | None = None) -> MorphResult:  # type: ignore[override]
        """As `sfumato.slider`."""
        from sfumato.api.slider import run

        self.check_models(watch, model=model)
        return run(model, self, watch)

    def _check_options(self) -> None:
        super()._check_options()
        if len(self.targets) != 1:
            raise UsageError(f"a slider has one target prompt, got {len(self.targets)}")
        if self.method == "auto":
            raise UsageError("auto chooses anew for every frame: take one method, such as the one that it chose")
        if self.vary is not None:
            self._set(vary=check_vary(self.vary, None if self.method is None else self.entry))
        self._set(spacing_options=SPACINGS[self.spacing].check_options(self.spacing_options or {}))
