"""`sfumato methods`: everything it shows is read from the methods' own declarations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import print_json, stdout, table, working
from sfumato.apps.describe import entry_fields, inversions_of
from sfumato.apps.loading import load
from sfumato.apps.options import AsJson, Device, Dtype, ModelName
from sfumato.emoji.defaults import METHOD_OPTIONS
from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.parameters import Parameter
    from sfumato.registry import Entry


def methods(
    name: Annotated[
        str | None, typer.Argument(help="The method, inversion, morph or spacing whose options are shown.")
    ] = None,
    model: ModelName = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """List editing methods, inversions, morphs and spacings, or show one of them with all its options.

    With --model, which of them that model serves, and the method that its edits take where none is named.
    """
    with working("starting"):
        from sfumato.edits.method import METHODS
        from sfumato.inversions.method import INVERSIONS
        from sfumato.morphs.method import MORPHS
        from sfumato.morphs.spacings.base import SPACINGS
        from sfumato.registry import unknown

        kinds: dict[str, Mapping[str, Entry[Any]]]
        kinds = {"methods": METHODS, "inversions": INVERSIONS, "morphs": MORPHS, "spacings": SPACINGS}
        entries: dict[str, list[Entry[Any]]] = {kind: [*registry.values()] for kind, registry in kinds.items()}
    if name is not None:
        names = sorted(entry.name for found in entries.values() for entry in found)
        if name not in names:
            raise UsageError(unknown("method, inversion, morph or spacing", name, names))
        entries = {kind: [entry for entry in found if entry.name == name] for kind, found in entries.items()}
    lacking, default = _lacking(model, device, dtype, [entry for found in entries.values() for entry in found])
    if as_json:
        print_json({kind: [_fields(entry, lacking, default) for entry in found] for kind, found in entries.items()})
    elif name is not None:
        for kind, found in entries.items():
            for entry in found:
                _show(entry, kind, (lacking or {}).get(entry.name))
    else:
        for kind, found in entries.items():
            _list(kind, [entry for entry in found if not (lacking or {}).get(entry.name)])
        for entry in (entry for found in entries.values() for entry in found):
            if what := (lacking or {}).get(entry.name):
                stdout().print(f"{model} does not serve {entry.name}: it needs {what}", soft_wrap=True)
        if model is not None:
            stdout().print(f"Edits with {model} that name no method take {default}", soft_wrap=True)
        stdout().print("Options of a method: sfumato methods NAME", style="dim")


def _lacking(
    model: str | None, device: str | None, dtype: str | None, entries: list[Entry[Any]]
) -> tuple[dict[str, str] | None, str]:
    """What a model lacks for each entry, "" where it serves it, and its default method; None and "" without a model."""
    if model is None:
        return None, ""
    loaded = load(model, device, dtype)
    from sfumato.edits.default_method import default_method
    from sfumato.models.traits import unmet

    return {entry.name: unmet(entry.needs, loaded) for entry in entries}, default_method(loaded)


def _fields(entry: Entry[Any], lacking: Mapping[str, str] | None, default: str) -> dict[str, Any]:
    """The entry in JSON's types; with a model, what that lacks for it ("": nothing), and whether it is the default."""
    fields = {**entry_fields(entry), "needs": list(entry.needs)}
    if lacking is None:
        return fields
    return {**fields, "lacks": lacking[entry.name], "default": entry.name == default}


def _list(kind: str, found: list[Entry[Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table("name", "when", "cost", "paper", title=kind, title_justify="left", show_lines=True)
    shown.columns[0].no_wrap, shown.columns[3].overflow = True, "fold"
    for entry in found:
        shown.add_row(Text(entry.name, "bold"), Text(entry.when), Text(entry.cost), Text(entry.paper))
    stdout().print(shown)


def _show(entry: Entry[Any], kind: str, lacks: str | None) -> None:
    from rich.table import Table
    from rich.text import Text

    console = stdout()
    console.print(Text(f"{entry.title} ({kind.removesuffix('s')}): {entry.summary}"), "")
    inversions = inversions_of(entry)
    facts = [(key, getattr(entry, key)) for key in ("name", "when", "cost", "paper")]
    if kind == "morphs":
        facts.append(("spacing", str(getattr(entry, "spacing", ""))))
    if inversions is not None:
        itself = "the image itself; or its latents from " if getattr(entry, "from_image", False) else ""
        facts.append(("starts from", itself + ", ".join(inversions)))
    if lacks is not None:
        facts.append(("serves the model", f"no: it needs {lacks}" if lacks else "yes"))
    table(facts, to=console)
    if not entry.parameters:
        return
    option = {"inversions": "option", "spacings": "option (--set-spacing NAME=VALUE)"}.get(
        kind, "option (--set NAME=VALUE)"
    )
    shown = Table(option, "meaning", "type", "default", "range", show_lines=True)
    shown.columns[0].no_wrap = True
    for parameter in entry.parameters.values():
        default = _default(parameter)
        if kind == "methods" and parameter.name in METHOD_OPTIONS.get(entry.name, {}):
            default += f" ({_text(METHOD_OPTIONS[entry.name][parameter.name])} for emoji)"
        cells = (parameter.help, parameter.type_name, default, parameter.range)
        shown.add_row(Text(parameter.name, "bold"), *(Text(cell) for cell in cells))
    console.print("", shown)
    if kind == "inversions":
        console.print("Set with --set in sfumato invert, with --set-inversion in sfumato edit.", style="dim")
    console.print(Text("Lists and tables are written as JSON: --set NAME=[0.1,0.6]  --set 'NAME={\"dog\": 2}'", "dim"))


def _default(parameter: Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "must be given"
    return _text(parameter.default)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).replace("null", "none")
