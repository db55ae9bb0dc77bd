"""Prompts with alternatives, such as "a cat on a {red|blue} background", one of which is chosen."""

from __future__ import annotations

import random
import re

from sfumato.errors import UsageError

_GROUP = re.compile(r"\{([^{}]*)\}")


def has_alternatives(prompt: str) -> bool:
    """Whether a prompt has alternatives in braces."""
    return "{" in prompt or "}" in prompt


def check_alternatives(source: str, target: str) -> None:
    """Refuses templates that cannot be filled.

    Raises:
        UsageError: A brace is open, alternatives are empty, or the target has some that the source has not.
    """
    for prompt in (source, target):
        if has_alternatives(_GROUP.sub("", prompt)):
            raise UsageError(f"the braces of {prompt!r} do not match: alternatives are written {{red|blue}}")
        for group in _GROUP.findall(prompt):
            if "|" not in group or not all(word.strip() for word in group.split("|")):
                raise UsageError(f"{{{group}}} of {prompt!r} lists no alternatives: write such as {{red|blue}}")
    alone = set(_GROUP.findall(target)) - set(_GROUP.findall(source))
    if alone:
        raise UsageError(
            f"{{{min(alone)}}} is in the target prompt alone: write the same alternatives in the source prompt,"
            " so that both get the same choice"
        )


def filled(source: str, target: str, seed: int) -> tuple[str, str]:
    """Both prompts with one of each alternatives chosen; equal alternatives get one choice, in both prompts.

    Args:
        source, target: Templates, see `check_alternatives`.
        seed: Of the choice.
    """
    draw = random.Random(seed)
    chosen = {group: draw.choice(group.split("|")).strip() for group in dict.fromkeys(_GROUP.findall(source))}

    def fill(prompt: str) -> str:
        return _GROUP.sub(lambda found: chosen[found[1]], prompt)

    return fill(source), fill(target)
