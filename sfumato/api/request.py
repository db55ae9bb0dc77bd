"""What all requests share: arguments of a public verb in one frozen object, checked when it is made, JSON both ways.

`sfumato.edit(model, ...)` makes an `EditRequest` and runs it. Recipes in images, manifests and forms are the JSON of
requests, so that whatever comes in is held to the same checks. `seed=-1` becomes a number when a request is made: who
runs it twice gets the same twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Any, ClassVar, Self

import sfumato
from sfumato import checks
from sfumato.api.arguments import ARGUMENTS, MAX_IMAGES, check_model
from sfumato.api.origin import Origin, image_origin, inversion_origin
from sfumato.checks import Check
from sfumato.errors import SfumatoError, UsageError
from sfumato.json_input import check_fields
from sfumato.models.base import Model
from sfumato.registry import recorded
from sfumato.watch import Watch

WHITE = (255, 255, 255)
PLACES = ("store",)
"""Arguments that say nothing of what is made, and stay out of JSON."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What all requests share.

    Attributes:
        command: The verb, which the JSON names.
        own_checks: Of arguments that differ from those of all verbs, by name.
        json_names: Arguments that the JSON calls otherwise.
    """

    command: ClassVar[str]
    own_checks: ClassVar[Mapping[str, Check]] = {}
    json_names: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        table = {**ARGUMENTS, **self.own_checks}
        for name in _names(self):
            value = getattr(self, name)
            if name in table:
                value = table[name](name, value)
            self._set(**{name: tuple(value) if isinstance(value, list) else value})
        self._check_options()

    def _check_options(self) -> None:
        """Checks options against those of the method, and arguments against one another; a subclass says which.

        Raises:
            UsageError: Names what does not fit.
        """

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def check_models(self, watch: Watch | None, **models: Model) -> None:
        """Checks what a request is run with.

        Raises:
            UsageError: A model is none, or takes no negative prompt; or the watch is none.
        """
        for name, model in models.items():
            check_model(name, model, getattr(self, "negative_prompt", None))
        ARGUMENTS["watch"]("watch", watch)

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types: images, masks and inversions by path and SHA-256.

        Raises:
            ImageError: An image cannot be read.
        """
        names = [name for name in _names(self) if name not in PLACES]
        return {"command": self.command, **{self.json_names.get(name, name): self._written(name) for name in names}}

    def _written(self, name: str) -> Any:
        """An argument in JSON's types."""
        value, background = getattr(self, name), getattr(self, "background", WHITE)
        if value is None:
            return None
        if name == "images":
            return [image_origin(image, background).to_json() for image in value]
        if name == "image":
            return image_origin(value, background).to_json()
        if name == "inverted":
            return inversion_origin(value).to_json()
        if name == "distance":
            return value if isinstance(value, str) else value.name
        return recorded(value)

    @classmethod
    def from_json(
        cls,
        values: Any,
        *,
        what: str = "the request",
        remedy: str = "correct what it names, or leave it out",
        error: type[SfumatoError] = UsageError,
    ) -> Self:
        """Makes the request that `to_json` wrote; arguments with a default may be missing.

        Files that it names are opened when it is run: of a stranger's request, look at them, or put others in.

        Args:
            values: An object of JSON.
            what, remedy, error: How the request is called, what to do and what to raise where it does not fit.

        Raises:
            SfumatoError: Of the type `error`: a name is missing or unknown, or a value does not fit.
        """
        known = cls._json_checks()
        needed = {cls.json_names.get(f.name, f.name) for f in fields(cls) if _is_needed(f)}
        found = check_fields(values, known, optional=known.keys() - needed, what=what, remedy=remedy, error=error)
        found.pop("command", None)
        try:
            return cls(**cls._arguments(found))
        except UsageError as refused:
            raise error(f"{what} is damaged ({refused}): {remedy}") from refused

    @classmethod
    def json_fields(cls) -> tuple[str, ...]:
        """Names in its JSON."""
        return tuple(cls._json_checks())

    @classmethod
    def _json_checks(cls) -> dict[str, Check]:
        """How the values of the JSON are checked, by name."""
        table: dict[str, Check] = {
            **ARGUMENTS,
            **cls.own_checks,
            "image": _origin,
            "inverted": _origin,
            "images": partial(checks.listed, check=Origin.from_json, most=MAX_IMAGES),
        }
        names = [name for name in _names(cls) if name not in PLACES]
        return {
            "command": partial(checks.choice, allowed=[cls.command]),
            **{cls.json_names.get(name, name): table.get(name, _as_it_is) for name in names},
        }

    @classmethod
    def _arguments(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments that checked JSON says."""
        arguments = {said: name for name, said in cls.json_names.items()}
        return {arguments.get(name, name): value for name, value in values.items()}


def recipe_of(request: Request, model: Model, **results: Any) -> dict[str, Any]:
    """What a result carries: the request, what it was run with, and what was found out on the way."""
    return {
        "command": request.command,
        "sfumato": sfumato.__version__,
        **model.recipe,
        **request.to_json(),
        **results,
    }


def _names(request: Any) -> list[str]:
    return [argument.name for argument in fields(request)]


def _is_needed(argument: Any) -> bool:
    return argument.default is MISSING and argument.default_factory is MISSING


def _origin(name: str, value: Any) -> Origin | None:
    return None if value is None else Origin.from_json(name, value)


def _as_it_is(_: str, value: Any) -> Any:
    return value
