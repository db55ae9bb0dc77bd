"""`sfumato models`."""

from __future__ import annotations

from typing import Any

from sfumato.apps.console import print_json, stdout, working
from sfumato.apps.options import AsJson

WAYS = (
    ("a short name", "--model sd15"),
    ("a hub id", "--model owner/model (downloaded once; offline from the cache after that)"),
    ("a diffusers folder", "--model path/to/folder (with model_index.json, weights as .safetensors)"),
    ("a single checkpoint", "--model path/to/model.safetensors"),
)


def models(as_json: AsJson = False) -> None:
    """List models with a short name, other ways to name a model, and which are on this machine."""
    with working("looking into the cache"):
        known, others, folder = _known(), _others(), _cache()
    if as_json:
        print_json({"models": known, "cached": others, "cache": folder})
        return
    from rich.table import Table
    from rich.text import Text

    console = stdout()
    shown = Table("name", "where it is from", "on this machine")
    for model in known:
        shown.add_row(Text(model["name"], "bold"), model["source"], "yes" if model["here"] else "no")
    for repo in others:
        shown.add_row(Text(repo, "bold"), "hub", "yes")
    console.print(shown)
    ways = Table.grid(padding=(0, 2))
    for what, how in WAYS:
        ways.add_row(Text(what, "bold"), Text(how))
    console.print("Ways to name a model:", ways, Text(f"Cache of the hub: {folder}"))
    console.print("Weights are read from .safetensors files only: a pickle file can run any program.", style="dim")


def embedded_is_here() -> bool:
    """Whether the embedded model came with this installation."""
    from sfumato.emoji import WEIGHTS

    return (WEIGHTS / "model_index.json").is_file()


def _known() -> list[dict[str, Any]]:
    from huggingface_hub import try_to_load_from_cache

    from sfumato.emoji.turbo_defaults import STUDENT
    from sfumato.models.hub import SHORT_NAMES

    found: list[dict[str, Any]] = [
        {"name": "emoji", "source": "embedded", "here": embedded_is_here()},
        {"name": "emoji-turbo", "source": "embedded", "here": embedded_is_here() and STUDENT.is_dir()},
        {"name": "emoji-flow", "source": "embedded", "here": embedded_is_here()},
    ]
    for name, repo in SHORT_NAMES.items():
        here = isinstance(try_to_load_from_cache(repo, "model_index.json"), str)
        found.append({"name": name, "source": repo, "here": here})
    return found


def _others() -> list[str]:
    """Further diffusers models in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from sfumato.models.hub import SHORT_NAMES

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    named = set(SHORT_NAMES.values())
    return sorted(
        repo.repo_id
        for repo in repos
        if repo.repo_id not in named
        and any(file.file_name == "model_index.json" for revision in repo.revisions for file in revision.files)
    )


def _cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)
