"""What suits `emoji-turbo`, the student of the embedded model that draws in four steps, where the user says nothing.

Its guidance is that of its teacher, which it has learned with it: it is run without.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.emoji import WEIGHTS as WEIGHTS
from sfumato.emoji.defaults import DISTANCE as DISTANCE
from sfumato.emoji.defaults import ENCODER as ENCODER

STUDENT = Path(__file__).parent / "turbo"
"""Folder of the student's network; all else is in `WEIGHTS`."""

GUIDANCE_SCALE = 1.0
METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = {}
METHOD_GUIDANCE: Mapping[str, float] = {}
