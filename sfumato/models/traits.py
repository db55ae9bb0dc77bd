"""What a model has that a method may need, in words; asked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sfumato.errors import UsageError
from sfumato.models.base import Model

TRAITS: Final[dict[str, str]] = {
    "flow": "a rectified flow's levels, as Stable Diffusion 3 and FLUX have",
    "diffusion": "a diffusion's noise levels, which a rectified flow has not",
    "cross-attention": "cross-attention from image to text, as Stable Diffusion 1.x to XL have",
    "joint-attention": "attention on image and text as one sequence, as Stable Diffusion 3 and FLUX have",
    "decoder": "a network with a decoder of growing grids, as Stable Diffusion 1.x to XL have",
}


def traits_of(model: Model) -> frozenset[str]:
    """Names of the traits that a model has."""
    kinds = {site.kind for site in model.sites(model.latent_shape()[1:])}
    found = {f"{kind}-attention" for kind in kinds} | ({"decoder"} if model.decoder_blocks() else set())
    return frozenset({*found, "flow" if model.schedule.target == "flow" else "diffusion"}) & TRAITS.keys()


def unmet(needs: Sequence[str], model: Model) -> str:
    """What a model lacks of what is needed, in words; "" where it lacks nothing."""
    if not needs:
        return ""
    return " and ".join(TRAITS[need] for need in needs if need not in traits_of(model))


def check_needs(name: str, needs: Sequence[str], model: Model) -> None:
    """Refuses a method that a model cannot serve.

    Raises:
        UsageError: Names what the model lacks.
    """
    if lacking := unmet(needs, model):
        raise UsageError(
            f"{name} needs {lacking}, and {model.name} has none: `sfumato methods --model` lists what serves a model"
        )
