"""What suits `emoji-flow`, the embedded model read as a rectified flow, where the user says nothing.

The weights are those of `emoji`: see `models.flow_reading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.emoji import WEIGHTS as WEIGHTS
from sfumato.emoji.defaults import DISTANCE as DISTANCE
from sfumato.emoji.defaults import ENCODER as ENCODER
from sfumato.emoji.defaults import GUIDANCE_SCALE as GUIDANCE_SCALE

AS_FLOW = True
METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = {}
METHOD_GUIDANCE: Mapping[str, float] = {}
