"""What writes pages: one module each, with `PAGE`, its file, and `written(text)`, its text as it should be now.

`make pages` writes all of them from figures that are stored; nothing is measured. A module here is found by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import sfumato

DOCS = Path(__file__).parents[2] / "docs"


def all_pages() -> dict[str, Any]:
    """The modules by name."""
    return {found.name: importlib.import_module(f"{__name__}.{found.name}") for found in _modules()}


def _modules() -> list[pkgutil.ModuleInfo]:
    return [module for module in pkgutil.iter_modules(__path__) if module.name != "__main__"]


def other_weights(revision: str | None) -> str:
    """A paragraph for figures that were measured with other weights of `emoji` than those that are shipped, else ""."""
    if revision == _shipped():
        return ""
    return "\n**These figures are of earlier weights of `emoji`, which drew single things at 64 x 64 pixels.**\n"


@cache
def _shipped() -> str:
    return sfumato.load_model("emoji").revision
