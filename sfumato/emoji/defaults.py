"""What suits the embedded model where the user says nothing.

Methods' own defaults, which are their papers' where these give one, suit this model but for two. These were chosen with
`benchmarks/emoji_edits.py`, on edits apart from those that EmojiEdit and the gallery report; the guidance of IMPUS on
pairs of the model's first weights, which drew single things.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.emoji import WEIGHTS as WEIGHTS

DISTANCE = "emoji"
ENCODER = "emoji-clip"

GUIDANCE_SCALE = 3.0
"""Of 3 and 5, for edits; higher ones draw a little better, see the model card."""

METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "diffedit": {"contrast_threshold": 0.2},
    "edit-friendly": {"strength": 0.7},
}

METHOD_GUIDANCE: Mapping[str, float] = {"impus": 1.5}
