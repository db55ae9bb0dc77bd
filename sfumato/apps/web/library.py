"""What the page is shown once: models, methods with their options, arguments, and example images."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from sfumato import __version__
from sfumato.api.recipe import FILES, NETWORKS
from sfumato.api.requests import EditRequest, MorphRequest
from sfumato.apps.as_code import FLAGS
from sfumato.apps.describe import entry_fields
from sfumato.apps.edit import edit
from sfumato.apps.morph import morph
from sfumato.apps.slider import slider
from sfumato.apps.web.forms import Limits
from sfumato.apps.web.public import model_label
from sfumato.apps.web.uploads import Upload
from sfumato.edits.auto import TRIES
from sfumato.edits.default_method import default_method
from sfumato.edits.method import METHODS
from sfumato.errors import SfumatoError, UsageError
from sfumato.images import FITS
from sfumato.inversions.method import INVERSIONS
from sfumato.models.base import Model
from sfumato.models.traits import unmet
from sfumato.morphs.method import MORPHS
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.registry import Entry

MOST_TARGETS = 3
REGISTRIES: Mapping[str, Mapping[str, Entry[Any]]] = {
    "methods": METHODS,
    "inversions": INVERSIONS,
    "morphs": MORPHS,
    "spacings": SPACINGS,
}


def library(models: Mapping[str, Model], examples: Sequence[Mapping[str, Any]], limits: Limits) -> dict[str, Any]:
    """All of it in JSON's types."""
    return {
        "version": __version__,
        "models": [_model(name, model) for name, model in models.items()],
        **{kind: [_entry(entry) for entry in registry.values()] for kind, registry in REGISTRIES.items()},
        "help": argument_help(),
        "usual": {"edit": _defaults(EditRequest), "morph": _defaults(MorphRequest)},
        "fits": list(FITS),
        "compare": list(dict.fromkeys(attempt.method for attempt in TRIES)),  # what `auto` thinks worth a try
        "examples": list(examples),
        "limits": {name: getattr(limits, name) for name in ("upload_bytes", "steps", "frames", "images", "prompt")},
    }


def argument_help() -> dict[str, str]:
    """What each argument of a request means, as the command line says it."""
    said: dict[str, str] = {}
    flags = {flag: name for name, flag in FLAGS.items()}
    for command in (morph, slider, edit):
        for name, hint in get_type_hints(command, include_extras=True).items():
            for option in getattr(hint, "__metadata__", ()):
                names = getattr(option, "param_decls", None) or (f"--{name.replace('_', '-')}",)
                argument = next((flags[part] for each in names for part in each.split("/") if part in flags), None)
                if argument is not None and option.help:
                    said[argument] = re.sub(r"; see: sfumato methods[^.]*", "", option.help)
    return said


def read_examples(limits: Limits) -> list[tuple[str, Upload]]:
    """The images that come with sfumato, each with what it shows; none where this installation lacks them."""
    from sfumato.emoji import EXAMPLES

    try:
        entries = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
        return [
            (str(entry["prompt"]), Upload.read((EXAMPLES / entry["file"]).read_bytes(), entry["file"], limits.pixels))
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, SfumatoError):
        return []


def example_edits(prompts: Sequence[str]) -> list[list[str]]:
    """For each caption some edits of it: what another caption says in the place of its first difference."""
    return [
        list(
            dict.fromkeys(
                target
                for other in [*prompts[k + 1 :], *prompts[:k]]
                if (target := _swapped(prompt, other)) not in (None, prompt)
            )
        )[:MOST_TARGETS]
        for k, prompt in enumerate(prompts)
    ]


def _swapped(prompt: str, other: str) -> str | None:
    """The prompt with its first few words that differ in the place of those of another; None where too much does."""
    mine, theirs = prompt.split(), other.split()
    for kind, start, end, begin, until in difflib.SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if kind == "replace" and end - start <= 2 and until - begin <= 2:
            return " ".join([*mine[:start], *theirs[begin:until], *mine[end:]])
        if kind != "equal":
            return None
    return None


def _model(name: str, model: Model) -> dict[str, Any]:
    height, width = model.sample_size
    return {
        "name": name,
        "device": model.device.type,
        "size": [width, height],
        "multiple": model.size_multiple,
        "guidance_scale": model.guidance_scale,
        "num_inference_steps": model.num_inference_steps,
        "method": default_method(model),
        "options": {method: dict(options) for method, options in model.method_options.items()},
        "guidance": dict(model.method_guidance),
        "negative": not model.takes_guidance,
        "few_steps": model.few_steps,
        "lacks": {
            kind: {entry.name: lacking for entry in registry.values() if (lacking := unmet(entry.needs, model))}
            for kind, registry in REGISTRIES.items()
        },
    }


def _entry(entry: Any) -> dict[str, Any]:
    fields = {**entry_fields(entry), "spacing": getattr(entry, "spacing", None)}
    fields["guidance"] = getattr(entry, "guidance_scale", None)
    fields["options"] = [
        {**option, "default": _plain(option["default"])}
        for option in fields["options"]
        if option["name"] not in {*FILES, *NETWORKS}  # which the page does not open
    ]
    fields.pop("emoji", None)  # each model says what suits it
    return fields


def _defaults(kind: type[EditRequest | MorphRequest]) -> dict[str, Any]:
    """Defaults of the arguments that JSON can say."""
    return {
        name: field.default
        for name, field in kind.__dataclass_fields__.items()
        if isinstance(field.default, str | int | float | bool)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def named_models(models: Sequence[Model]) -> dict[str, Model]:
    """The models by the names that clients see.

    Raises:
        UsageError: Two have one name.
    """
    found = {model_label(model.name): model for model in models}
    if len(found) < len(models):
        raise UsageError("two models have the same name: rename a folder, or serve one of them")
    return found
