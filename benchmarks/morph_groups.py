"""Which pairs of benchmarks/morphs.py belong together, and names of rows that are of no method."""

from __future__ import annotations

from collections.abc import Iterable

CHOSEN_ON = ("cat-dog", "fox-styles", "lion-panda", "panda-pizza")
"""Pairs that options were chosen on; nothing ever was on the others."""

REAL, DECODED = "real images", ", through the autoencoder"
"""In the table of many frames: rows that are of no method, and of frames that the autoencoder gave back."""


def groups_of(runs: Iterable[str]) -> dict[str, list[str]]:
    """Names of pairs under a title: those that options were chosen on, and the others."""
    names = list(dict.fromkeys(key.split(" ")[0] for key in runs))
    groups = {
        "Pairs that options were chosen on": [name for name in names if name in CHOSEN_ON],
        "Pairs that nothing was chosen on": [name for name in names if name not in CHOSEN_ON],
    }
    return {title: group for title, group in groups.items() if group}
