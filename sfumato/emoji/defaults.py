"""What suits the embedded model where the user says nothing.

Methods' own defaults are for 64x64 latents of photographs, where their papers give one. These were chosen with
`benchmarks/emoji_edits.py`, on edits apart from those that EmojiEdit and the gallery report; the guidance of IMPUS on
the first four pairs of `benchmarks/morphs.py`, which report it, too, and on the model's first weights, which knew 40
concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.emoji import WEIGHTS as WEIGHTS

DISTANCE = "emoji"
ENCODER = "emoji-clip"

GUIDANCE_SCALE = 3.0
"""Of 2, 3 and 4, for what it draws; 2 and 3 hardly differed, see the model card."""

METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "cycle-diffusion": {"strength": 0.85},
    "diffedit": {"strength": 0.9, "contrast_threshold": 0.1},
    "edit-friendly": {"strength": 0.9},
    "egsde": {"faithfulness": 0.1},
    "ilvr": {"hold": 0.2},
    "ledits": {"quantile": 0.1},
    "plug-and-play": {"feature_threshold": 0.2, "attention_threshold": 0.15},
    "prompt-to-prompt": {"cross_replace_steps": 0.2, "self_replace_steps": 0.1},
    "sdedit": {"strength": 0.85},
}

METHOD_GUIDANCE: Mapping[str, float] = {"impus": 1.5}
