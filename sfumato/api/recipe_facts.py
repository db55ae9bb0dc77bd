"""What a recipe states beside the request: versions, the model and what was added to it, each with its check."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sfumato import checks
from sfumato.api.request import Request
from sfumato.api.requests import TranslateRequest
from sfumato.checks import Check
from sfumato.errors import UsageError
from sfumato.models.parts import MAX_PARTS, MAX_SKIP


def needed_facts(kind: type[Request]) -> set[str]:
    """Names of the facts that a recipe of a kind of request must state."""
    models = {"models", "revisions"} if kind is TranslateRequest else {"model", "revision"}
    return {"sfumato", *models}


def fact_checks() -> dict[str, Check]:
    """What a recipe says besides the request, and how it is checked."""
    word = partial(checks.text, most=4_096)
    added: dict[str, Check] = {"path": checks.path, "sha256": word, "scale": checks.number, "token": word}
    files = partial(checks.listed, check=partial(_file, known=added), most=MAX_PARTS)
    return {
        "sfumato": word,
        "key": word,  # of an item of a batch
        "model": partial(word, empty="it names the model"),
        "revision": word,
        "lora": files,
        "embeddings": files,
        "vae": partial(_file, known=added),
        "clip_skip": partial(checks.whole, low=0, high=MAX_SKIP),
        "models": partial(checks.listed, check=word, fewest=2, most=2),
        "revisions": partial(checks.listed, check=word, fewest=2, most=2),
        "parts": partial(checks.listed, check=checks.table, fewest=2, most=2),
        "weights": partial(checks.listed, check=checks.number, most=100_000),
        "found": partial(checks.listed, check=checks.table),
    }


def _file(name: str, value: Any, *, known: Mapping[str, Check]) -> dict[str, Any]:
    """A file that was added to the model; a LoRA has a scale."""
    given = checks.table(name, value)
    found = {key: known[key](f"{name}.{key}", part) if key in known else part for key, part in given.items()}
    lacking = [key for key in ("path", "sha256", *(["scale"] if name == "lora" else [])) if key not in found]
    if lacking:
        raise UsageError(f"{name} has no {lacking[0]}")
    return found
