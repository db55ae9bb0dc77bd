"""Methods by name, and their options, each declared once: on the method's own function.

A method is a function under `sfumato/edits/`, an inversion one under `sfumato/inversions/`, a morph one under
`sfumato/morphs/`; each folder has its registry and its decorator in `method.py`. Keyword-only parameters annotated with
`Option` are options; the command line, the web page, batch runs and benchmarks read name, type, range, default and help
from there. The modules of a folder are imported when its registry is first looked at.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

from sfumato.checks import shown
from sfumato.errors import UsageError
from sfumato.parameters import Parameter, parameters

Function = TypeVar("Function", bound=Callable[..., Any])


HEADING = re.compile(r"(?P<title>[^()]+) \((?P<paper>[^()]+, \d{4})\), (?P<link>https://\S*\w)")
"""How the module of a method that is of one paper begins: `Title (Authors, year), https://link`."""


class Description(TypedDict):
    """The texts of an entry, and what it asks of a model, see `Entry`, as decorators take them.

    Title and paper are those of the module's first line, see `HEADING`, where they are not given.
    """

    summary: str
    when: str
    cost: str
    title: NotRequired[str]
    paper: NotRequired[str]
    needs: NotRequired[tuple[str, ...]]


@dataclass(frozen=True)
class Entry(Generic[Function]):
    """A function under a name, with its options.

    Attributes:
        name: What `method=`, `inversion=` and their command-line options take.
        function: The latent-level function. Its type says what all of the registry take and give; options, which each
            has of its own, are checked by `check_options`.
        title, paper, summary, when, cost: For people: full name, reference, what it does, when to use it, and its price
            in network evaluations (rows through the network for one image).
        parameters: Its options.
        needs: What a model must have to serve it, see `sfumato.models.traits`.
    """

    name: str
    function: Function
    title: str
    paper: str
    summary: str
    when: str
    cost: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Checks names, types and ranges.

        Raises:
            UsageError: An unknown option (with the closest name), a wrong type, or a value out of range.
        """
        named = {self.option(name): value for name, value in options.items()}
        return {name: self.parameters[name].check(value) for name, value in named.items()}

    def option(self, name: str) -> str:
        """Today's name of an option, which earlier versions may have called otherwise.

        Raises:
            UsageError: An unknown option (with the closest name).
        """
        for parameter in self.parameters.values():
            if name in (parameter.name, parameter.formerly):
                return parameter.name
        raise UsageError(unknown("option", name, self.parameters, of=f" of {self.name}"))


def unknown(kind: str, name: Any, known: Mapping[str, Any] | list[str], *, of: str = "") -> str:
    """Words for a name that is not known, with the closest one that is."""
    close = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.5) if isinstance(name, str) else []
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {shown(name)}{of}: {hint}known: {', '.join(known) or 'none'}"


def recorded(value: Any) -> Any:
    """An option's value as a recipe keeps it: what JSON knows stays, anything else says in words what it is."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): recorded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(part) for part in value]
    return str(value)


def _heading(function: Callable[..., Any], name: str) -> dict[str, str]:
    """Title and paper as the first line of a function's module says them, as far as it does."""
    text = sys.modules[function.__module__].__doc__  # not that of its globals, which are a wrapper's under one
    if text is None:  # as under python -OO
        return {"title": name, "paper": ""}
    found = HEADING.match(text)
    return {} if found is None else {"title": found["title"], "paper": f"{found['paper']}, {found['link']}"}


Kind = TypeVar("Kind", bound=Entry[Any])


class Registry(Mapping[str, Kind]):
    """Entries by name, found by importing the modules of a package at first use.

    Several threads may do so at once: Python's import system lets each module run once and all others wait for it. An
    import that fails raises, and is tried again at the next use.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Kind] = {}
        self._loaded = False

    def add(self, entry: Kind) -> None:
        """Adds an entry; that of a module which failed to import and is imported again takes the old one's place."""
        known = self._entries.get(entry.name)
        if known is not None and known.function.__module__ != entry.function.__module__:
            raise ValueError(f"two entries are called {entry.name!r}")
        self._entries[entry.name] = entry

    def decorator(self, name: str, make: Callable[..., Kind], **fields: Any) -> Callable[[Function], Function]:
        """Registers the decorated function, with its options and these fields of the entry, and leaves it as it is.

        Raises:
            ValueError: Title and paper are neither given nor said by the module's first line.
        """

        def register(function: Function) -> Function:
            texts = {**_heading(function, name), **fields}
            if not {"title", "paper"} <= texts.keys():
                raise ValueError(
                    f"{name}: give title and paper, or begin the module with 'Title (Authors, year), https://link'"
                )
            self.add(make(name, function, parameters=parameters(function), **texts))
            return function

        return register

    def _load(self) -> dict[str, Kind]:
        if not self._loaded:
            folder = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(folder.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._loaded = True  # only now: others find all entries or import them, too
        return self._entries

    def __getitem__(self, name: str) -> Kind:
        entries = self._load()
        if not isinstance(name, str) or name not in entries:
            raise UsageError(unknown(self.kind, name, sorted(entries)))
        return entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def __len__(self) -> int:
        return len(self._load())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._load()
