"""Methods by name, and their options, each declared once: on the method's own function.

A method is a function under `sfumato/edit/` decorated with `@method(...)`, or one under `sfumato/morph/` decorated with
`@morph_method(...)`. Its keyword-only parameters annotated with `Option` are its options; the command line, the web
page, batch runs and benchmarks read name, type, range, default and help from there through `METHODS` and `MORPHS`.
Nothing heavy is imported until one of them is first looked at.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import pkgutil
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sfumato.errors import UsageError

Function = Callable[..., Any]


@dataclass(frozen=True)
class Option:
    """What a parameter's annotation says of it: `Annotated[float, Option("share of the steps", low=0, high=1)]`.

    Attributes:
        help: One sentence in words that a user understands.
        low, high: Inclusive bounds on a number, or on every number inside a sequence or mapping.
        check: Refuses a value of the right type by raising a UsageError, before anything heavy is done.
    """

    help: str
    low: float | None = None
    high: float | None = None
    check: Callable[[Any], object] | None = None


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
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if str in kinds and not any(_fits(value, part) for part in _alternatives(self.type)):
            value = text
        return self.check(value)

    def check(self, value: Any) -> Any:
        """Returns the value when it fits type and range.

        Raises:
            UsageError: Names the option, the value and what is allowed.
        """
        parts = _alternatives(self.type)
        if not any(_fits(value, part) for part in parts):
            allowed = f"one of {', '.join(self.choices)}" if self.choices else self.type_name
            raise UsageError(f"{self.name} must be {allowed}, got {value!r}")
        for number in _numbers(value):
            if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
                raise UsageError(f"{self.name} must be in {self.range}, got {number:g}")
        if self.refuse is not None:
            self.refuse(value)
        return value

    @property
    def range(self) -> str:
        """The bounds as text, empty without any."""
        if self.low is None and self.high is None:
            return ""
        low = "(-inf" if self.low is None else f"[{self.low:g}"
        high = "inf)" if self.high is None else f"{self.high:g}]"
        return f"{low}, {high}"


@dataclass(frozen=True)
class Entry:
    """A function under a name, with its options.

    Attributes:
        name: What `method=`, `inversion=` and their command-line options take.
        function: The latent-level function.
        title, paper, summary, when, cost: For people: full name, reference, what it does, when to use it, and its price
            in network evaluations (rows through the network for one picture).
        parameters: Its options.
    """

    name: str
    function: Function
    title: str
    paper: str
    summary: str
    when: str
    cost: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Checks names, types and ranges.

        Raises:
            UsageError: An unknown option (with the closest name), a wrong type, or a value out of range.
        """
        for name in options:
            if name not in self.parameters:
                raise UsageError(unknown("option", name, self.parameters, of=f" of {self.name}"))
        return {name: self.parameters[name].check(value) for name, value in options.items()}


@dataclass(frozen=True)
class Method(Entry):
    """An editing method as `METHODS` knows it.

    Attributes:
        inversions: Names of the inversions that serve it, the default one first; empty: it starts from the picture
            itself.
        refuses: Why an inversion does not serve it, by the inversion's name, where there is more to say than that.
    """

    inversions: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes_mask(self) -> bool:
        """Whether it has a mask of its own, which the user's takes the place of: a keyword-only parameter `mask`."""
        return "mask" in inspect.signature(self.function).parameters


@dataclass(frozen=True)
class InversionEntry(Entry):
    """An inversion as `INVERSIONS` knows it.

    Attributes:
        source_guidance_scale: Guidance of the source branch at which the picture comes back; None: any, since the
            inversion corrects for it.
    """

    source_guidance_scale: float | None = 1.0


@dataclass(frozen=True)
class MorphMethod(Entry):
    """A morphing method as `MORPHS` knows it.

    Attributes:
        spacing: How its frames' weights are chosen by default, a name in `sfumato.morph.spacing.SPACINGS`.
        guidance_scale, num_inference_steps: Where the user says nothing; None: the model's.
    """

    spacing: str = "even"
    guidance_scale: float | None = None
    num_inference_steps: int | None = None


def method(
    name: str,
    *,
    title: str,
    paper: str,
    summary: str,
    when: str,
    cost: str,
    inversions: tuple[str, ...] = ("ddim",),
    refuses: Mapping[str, str] | None = None,
) -> Callable[[Function], Function]:
    """Registers the decorated function as an editing method; see `Method` for the fields."""

    def register(function: Function) -> Function:
        options = parameters(function)
        METHODS.add(Method(name, function, title, paper, summary, when, cost, options, inversions, refuses or {}))
        return function

    return register


def inversion(
    name: str,
    *,
    title: str,
    paper: str,
    summary: str,
    when: str,
    cost: str,
    source_guidance_scale: float | None = 1.0,
) -> Callable[[Function], Function]:
    """Registers the decorated function as an inversion; see `InversionEntry` for the fields."""

    def register(function: Function) -> Function:
        options = parameters(function)
        INVERSIONS.add(
            InversionEntry(name, function, title, paper, summary, when, cost, options, source_guidance_scale)
        )
        return function

    return register


def morph_method(
    name: str,
    *,
    title: str,
    paper: str,
    summary: str,
    when: str,
    cost: str,
    spacing: str = "even",
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
) -> Callable[[Function], Function]:
    """Registers the decorated function as a morphing method; see `MorphMethod` for the fields."""

    def register(function: Function) -> Function:
        options = parameters(function)
        defaults = (spacing, guidance_scale, num_inference_steps)
        MORPHS.add(MorphMethod(name, function, title, paper, summary, when, cost, options, *defaults))
        return function

    return register


def parameters(function: Function) -> dict[str, Parameter]:
    """Options of a function: its keyword-only parameters annotated with `Option`."""
    hints = get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints.get(name)
        options = [extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Option)]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and options:
            option, kind = options[0], get_args(annotation)[0]
            found[name] = Parameter(name, kind, parameter.default, option.help, option.low, option.high, option.check)
    return found


def unknown(kind: str, name: str, known: Mapping[str, Any] | list[str], *, of: str = "") -> str:
    """Words for a name that is not known, with the closest one that is."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {name!r}{of}: {hint}known: {', '.join(known) or 'none'}"


def recorded(value: Any) -> Any:
    """An option's value as a recipe keeps it: what JSON knows stays, anything else says in words what it is."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): recorded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(part) for part in value]
    return str(value)


Kind = TypeVar("Kind", bound=Entry)


class Registry(Mapping[str, Kind]):
    """Entries by name, found by importing the modules of a package at first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Kind] = {}
        self._loaded = False

    def add(self, entry: Kind) -> None:
        if entry.name in self._entries:
            raise ValueError(f"two entries are called {entry.name!r}")
        self._entries[entry.name] = entry

    def _load(self) -> dict[str, Kind]:
        if not self._loaded:
            self._loaded = True
            folder = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(folder.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
        return self._entries

    def __getitem__(self, name: str) -> Kind:
        entries = self._load()
        if name not in entries:
            raise UsageError(unknown(self.kind, name, sorted(entries)))
        return entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def __len__(self) -> int:
        return len(self._load())

    def __contains__(self, name: object) -> bool:
        return name in self._load()


METHODS: Registry[Method] = Registry("method", "sfumato.edit")
INVERSIONS: Registry[InversionEntry] = Registry("inversion", "sfumato.inversion")
MORPHS: Registry[MorphMethod] = Registry("morph method", "sfumato.morph")


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
        return value in args
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


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _numbers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
