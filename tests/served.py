"""Which methods, inversions and morphs the toy models serve: a diffusion, and a rectified flow."""

from collections.abc import Mapping
from typing import Any

DIFFUSION = frozenset({"diffusion", "text-maps", "cross-attention", "decoder"})
"""What `toy_model` and its kin have of what a method may need, see `sfumato.models.traits`."""
FLOW = frozenset({"flow", "text-maps", "joint-attention"})
"""What the models of `tests.toy_flow` have."""


def on(traits: frozenset[str], entries: Mapping[str, Any]) -> list[str]:
    """Names of the entries that a model with these traits serves."""
    return [name for name in entries if set(entries[name].needs) <= traits]
