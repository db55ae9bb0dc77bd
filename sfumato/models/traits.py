"""What a model has that a method may need, in words; asked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sfumato.errors import UsageError
from sfumato.models.base import Model
from sfumato.models.layout import is_flow
from sfumato.registry import Entry

TRAITS: Final[dict[str, str]] = {
    "flow": "a rectified flow's levels, as Stable Diffusion 3 and FLUX have",
    "diffusion": "a diffusion's noise levels, which a rectified flow has not",
    "text-maps": "attention from image to text, as models that read text have",
    "cross-attention": "cross-attention from image to text, as Stable Diffusion 1.x to XL have",
    "joint-attention": "attention on image and text as one sequence, as Stable Diffusion 3 and FLUX have",
    "decoder": "a network with a decoder of growing grids, as Stable Diffusion 1.x to XL have",
}


def traits_of(model: Model) -> frozenset[str]:
    """Names of the traits that a model has."""
    kinds = {site.kind for site in model.sites(model.latent_shape()[1:])}
    found = {f"{kind}-attention" for kind in kinds} | ({"decoder"} if model.decoder_blocks() else set())
    found |= {"text-maps"} if kinds & {"cross", "joint"} else set()
    return frozenset({*found, "flow" if model.schedule.target == "flow" else "diffusion"}) & TRAITS.keys()


def traits_of_family(family: str) -> frozenset[str]:
    """Names of the traits that models of a pipeline class have, see `pipelines.family_of`."""
    if is_flow(family):
        return frozenset({"flow", "text-maps", "joint-attention"})
    if family == "DDPMPipeline":
        return frozenset({"diffusion"})
    return frozenset({"diffusion", "text-maps", "cross-attention", "decoder"})


def unmet(needs: Sequence[str], model: Model) -> str:
    """What a model lacks of what is needed, in words; "" where it lacks nothing."""
    if not needs:
        return ""
    return " and ".join(TRAITS[need] for need in needs if need not in traits_of(model))


def check_needs(kind: str, name: str, entries: Mapping[str, Entry[Any]], model: Model) -> None:
    """Refuses a method that a model cannot serve.

    Args:
        kind: What it is, for the message.
        name: Of the entry.
        entries: All of its kind.
        model: Any model.

    Raises:
        UsageError: Names what the model lacks, and what it serves.
    """
    if lacking := unmet(entries[name].needs, model):
        served = ", ".join(other for other, entry in entries.items() if not unmet(entry.needs, model))
        raise UsageError(f"{kind} {name} needs {lacking}, and {model.name} has none; it serves: {served}")


def check_cache(model: Model, cache_interval: int) -> None:
    """Refuses to use features again where a model has none that could be.

    Raises:
        UsageError: It is no UNet, or one of a single stage.
    """
    if cache_interval > 1 and not model.caches_features:
        raise UsageError(
            f"cache_interval={cache_interval} needs a UNet of several stages, as Stable Diffusion 1.x to XL have, and"
            f" {model.name} has none: leave it out"
        )
