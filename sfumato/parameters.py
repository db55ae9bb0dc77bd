"""Options as registries hand them out: read from a function's annotations, with the check of a user's value."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sfumato import checks
from sfumato.json_input import JsonError, read_json
from sfumato.options import Option


@dataclass(frozen=True)
class Parameter:
    """An option as METHODS hands it out: name, type, default, help and range."""

    name: str
    type: Any
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    refuse: Callable[[Any], object] | None = None
    formerly: str = ""
    renamed_values: Mapping[str, str] = field(default_factory=dict)

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed words of a Literal type; empty for other types."""
        return tuple(
            choice for part in _alternatives(self.type) if get_origin(part) is Literal for choice in get_args(part)
        )

    @property
    def type_name(self) -> str:
        """The type in words, for help texts."""
        return " or ".join(dict.fromkeys(_type_name(part) for part in _alternatives(self.type)))

    def parse(self, text: str) -> Any:
        """Reads a value from text as the command line gives it: a word, a number, or JSON for lists and tables.

        Raises:
            UsageError: The text does not fit the type.
        """
        kinds = {get_origin(part) or part for part in _alternatives(self.type)}
        if text.lower() in {"none", "null"} and types.NoneType in kinds:
            return None
        if text in self.choices or kinds <= {str, types.NoneType}:
            return text
        if bool in kinds and text.lower() in {"true", "yes", "on", "false", "no", "off"}:
            return text.lower() in {"true", "yes", "on"}
        try:
            value = read_json(text)
        except JsonError:
            value = text
        if str in kinds and not any(_fits(value, part) for part in _alternatives(self.type)):
            value = text
        return self.check(value)

    def check(self, value: Any) -> Any:
        """Returns the value when it fits type and range.

        Raises:
            UsageError: Names the option, the value and what is allowed.
        """
        value = checks.plain(value)
        if isinstance(value, str):
            value = self.renamed_values.get(value, value)
        if not any(_fits(value, part) for part in _alternatives(self.type)):
            allowed = f"one of {', '.join(self.choices)}" if self.choices else self.type_name
            raise checks.refuse(self.name, allowed, value)
        low = -checks.LARGEST if self.low is None else self.low
        high = checks.LARGEST if self.high is None else self.high
        for part in checks.leaves(value):
            if isinstance(part, str):
                checks.text(self.name, part)
            elif isinstance(part, int | float) and not isinstance(part, bool) and not low <= part <= high:
                # not: `part < low or ...`, which NaN would pass
                raise checks.refuse(self.name, f"in {self.range or checks.allowed(low, high)}", part)
        if self.refuse is not None:
            self.refuse(value)
        return value

    @property
    def range(self) -> str:
        """The bounds as text, empty without any."""
        return checks.allowed(self.low, self.high)


def parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Options of a function: its keyword-only parameters annotated with `Option`."""
    hints = get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints.get(name)
        options = [extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Option)]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and options:
            option, kind = options[0], get_args(annotation)[0]
            found[name] = Parameter(
                name, kind, parameter.default, option.help, option.low, option.high, option.check, option.formerly,
                option.renamed_values,
            )  # fmt: skip
    return found


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _type_name(part: Any) -> str:
    names = {float: "number", int: "whole number", bool: "yes or no", str: "text", Path: "file", types.NoneType: "none"}
    origin = get_origin(part)
    if origin is Literal:
        return " | ".join(str(choice) for choice in get_args(part))
    if origin is not None and issubclass(origin, Mapping):
        return "table of name=value"
    if origin is tuple and Ellipsis not in get_args(part):
        return f"list of {len(get_args(part))}"
    return names.get(part, "list" if origin is not None else getattr(part, "__name__", str(part)))


def _fits(value: Any, part: Any) -> bool:
    """Whether a value is of an annotated type, tuples and lists taken as one (JSON knows lists only)."""
    origin, args = get_origin(part), get_args(part)
    if part is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in args)
    if origin is None:
        if part is float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        return isinstance(value, part) and not (part is int and isinstance(value, bool))
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if isinstance(value, str) or not isinstance(value, list | tuple):
        return False
    if origin is tuple and Ellipsis not in args:
        return len(value) == len(args) and all(_fits(v, kind) for v, kind in zip(value, args, strict=True))
    return all(_fits(v, args[0]) for v in value)
