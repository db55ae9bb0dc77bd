"""Shares of a run as numbers of steps, and notes where one is rounded to no step."""

from __future__ import annotations

from math import ceil
from typing import Annotated

from sfumato.errors import UsageError
from sfumato.options import Option

Window = float | tuple[float, float]
"""A share of the run, from its noisy end, or (start, end)."""


Strength = Annotated[
    float,
    Option("share of the steps that are run, from the clean end; lower keeps more of the image", low=0, high=1),
]
"""The option of methods whose run begins at `first_step`."""


def first_step(strength: float, num_inference_steps: int, *, at_least: int = 0) -> int:
    """Index of the first step when the share `strength` of all steps is executed: int(N strength) of N.

    Any strength above 0 runs one step at least, so that few steps are never none.

    Args:
        strength: In [0, 1].
        num_inference_steps: N.
        at_least: How many steps must be left.

    Raises:
        UsageError: The strength is outside, or leaves fewer steps.
    """
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength must be in [0, 1], got {strength:g}")
    executed = max(whole_steps(strength, num_inference_steps), 1 if strength > 0.0 else 0)
    if executed < at_least:
        raise UsageError(f"strength={strength:g} leaves none of {_steps(num_inference_steps)}: use more than 0")
    return num_inference_steps - executed


def strength_notes(strength: float, num_inference_steps: int, *, name: str = "strength") -> tuple[str, ...]:
    """What there is to say where `first_step` rounds up to one step."""
    if strength == 0.0 or whole_steps(strength, num_inference_steps) > 0:
        return ()
    return (f"{name}={strength:g} of {_steps(num_inference_steps)} is less than one step: one is run",)


def window_notes(num_inference_steps: int, *, rows: int = 0, **windows: Window) -> tuple[str, ...]:
    """What there is to say of options that act from step int(N start) to int(N end), where these are the same step.

    Args:
        num_inference_steps: N.
        rows: What shares are of, where that is not N.
        windows: The options by name.
    """
    notes = []
    for name, window in windows.items():
        start, end = (0.0, window) if isinstance(window, int | float) else window
        if start < end and int(start * (rows or num_inference_steps)) == int(end * (rows or num_inference_steps)):
            least = ceil(1000 / num_inference_steps) / 1000
            shown = f"{end:g}" if start == 0.0 else f"({start:g}, {end:g})"
            notes.append(
                f"{name}={shown} of {_steps(num_inference_steps)} is less than one step, so it does nothing: use"
                f" {least:g} or more, or more steps"
            )
    return tuple(notes)


def whole_steps(share: float, steps: int) -> int:
    """How many of the steps a share of them is, rounded down."""
    return int(steps * share + 1e-6)  # 0.57 * 100 is 56.99...


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
