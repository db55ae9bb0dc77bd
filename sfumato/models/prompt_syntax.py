r"""Weights in prompts, as in A1111's web UI.

`(cat)` counts 1.1, `((cat))` 1.21, `[cat]` 1 / 1.1, `(cat:1.3)` 1.3; brackets within brackets multiply. `\(`, `\)`,
`\[`, `\]` and `\\` are the characters themselves. Brackets without a partner are text.

A weight w acts on the embedding of each of its tokens, from the embedding that the empty prompt has at the same place
(`reweighted` of `models/text.py`); so at 1 nothing changes and at 0 the word says nothing. The embedding's mean is not
restored afterwards: it is close to 0, so that dividing by it can blow the embedding up. (A1111's web UI scales towards
0 and restores the mean; ComfyUI does as we do.) SDXL's pooled embedding is that of the words without weights.
Prompt-to-Prompt's methods scale a word's attention instead, see
`attention/word_weights.py`.

What a prompt cannot say here is refused with the remedy: `<lora:...>`, `embedding:...`, `BREAK`, `AND`, prompts that
change over the run (`[a:b:0.5]`, `[a|b]`). What is read otherwise than it may be meant is noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from sfumato.errors import UsageError

STEP = 1.1
"""What a pair of round brackets multiplies by."""
MOST = 10.0
"""Largest weight, of either sign."""

_OPEN, _CLOSE = {"(": ")", "[": "]"}, {")": "(", "]": "["}
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_LONGEST_NUMBER = 32
_NETWORK = re.compile(r"<\s*(lora|lyco|lycoris|locon|hypernet)\s*:([^<>]*)>", re.IGNORECASE)
_EMBEDDING = re.compile(r"\bembedding:[\w./\\-]+", re.IGNORECASE)
_KEYWORD = re.compile(r"(?<![\w\\])(BREAK|AND)(?!\w)")
_NOTED = (
    (re.compile(r"(?<!\\)\|"), "'|' is read as a character: prompts are not alternated or mixed"),
    (
        re.compile(r"\{[^{}]*\}"),
        "{ } are read as characters: a weight is written (cat:1.1), and there are no wildcards",
    ),
    (re.compile(r"(?<!\w)__[\w/-]+__(?!\w)"), "__words__ are read as text: there are no wildcards"),
    (re.compile(r"(?<=[\w)])(\+\+|--)+(?=\s|,|$)"), "++ and -- are read as characters: a weight is written (cat:1.1)"),
    (re.compile(r"(?<!\\)\)\.?\d"), "a number after a bracket is read as text: a weight is written (cat:1.3)"),
)


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was understood.

    Attributes:
        parts: Its text in order, each with its weight.
        notes: What was read otherwise than it may be meant.
    """

    parts: tuple[tuple[str, float], ...]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words without the syntax."""
        return "".join(text for text, _ in self.parts)

    @property
    def is_weighted(self) -> bool:
        return any(weight != 1.0 for _, weight in self.parts)


@lru_cache(maxsize=256)
def read_prompt(prompt: str) -> Prompt:
    """Reads a prompt.

    Raises:
        UsageError: It says something that prompts cannot say here, or a weight is beyond 10.
    """
    _refuse_keywords(prompt)
    partners, alone = _brackets(prompt)
    letters: list[tuple[str, float]] = []
    weights, bare, at = [1.0], False, 0
    skip_to: dict[int, int] = {}
    while at < len(prompt):
        letter = prompt[at]
        if letter == "\\" and prompt[at + 1 : at + 2] in ("(", ")", "[", "]", "\\"):
            letters.append((prompt[at + 1], weights[-1]))
            at += 2
            continue
        if at in skip_to:  # the number of a weight
            at = skip_to[at]
            continue
        if at in partners and letter in _OPEN:
            factor, number_at = _factor(prompt, at, partners[at])
            bare = bare or number_at is None
            if number_at is not None:
                skip_to[number_at] = partners[at]
            weights.append(weights[-1] * factor)
            _check_weight(weights[-1], prompt)
        elif at in partners:
            weights.pop()
        else:
            letters.append((letter, weights[-1]))
        at += 1
    parts = [("".join(text for text, _ in group), weight) for weight, group in groupby(letters, key=lambda one: one[1])]
    return Prompt(tuple(parts), tuple(_notes(prompt, bare, alone)))


def plain_text(prompt: str) -> str:
    """The words of a prompt, without weights and escapes."""
    return read_prompt(prompt).text


def write_prompt(parts: Sequence[tuple[str, float]]) -> str:
    """A prompt that is read as these parts."""
    written = []
    for text, weight in parts:
        escaped = re.sub(r"([\\()\[\]])", r"\\\1", text)
        written.append(escaped if weight == 1.0 else f"({escaped}:{weight:.6f})")
    return "".join(written)


def prompt_notes(prompts: Mapping[str, str | Sequence[str] | None]) -> list[str]:
    """What to tell the user of prompts, by the name of the argument; checks them, too.

    Raises:
        UsageError: A prompt says something that prompts cannot say here.
    """
    found: list[str] = []
    for name, given in prompts.items():
        texts = [given] if isinstance(given, str) else (given or [])
        found += [f"{name}: {note}" for text in texts for note in read_prompt(text).notes]
    return list(dict.fromkeys(found))


def _brackets(prompt: str) -> tuple[dict[int, int], bool]:
    """The partner of each bracket by its place, both ways; and whether any bracket has none."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    alone, at = False, 0
    while at < len(prompt):
        letter = prompt[at]
        if letter == "\\":
            at += 2
            continue
        if letter in _OPEN:
            opened.append(at)
        elif letter in _CLOSE:
            if opened and prompt[opened[-1]] == _CLOSE[letter]:
                start = opened.pop()
                partners[start], partners[at] = at, start
            else:
                alone = True
        at += 1
    return partners, alone or bool(opened)


def _factor(prompt: str, start: int, end: int) -> tuple[float, int | None]:
    """What a pair of brackets multiplies by, and where its number begins, None without one."""
    tail = max(start + 1, end - _LONGEST_NUMBER)
    number = _NUMBER.search(prompt, tail, end)
    if prompt[start] == "(":
        return (STEP, None) if number is None else (float(number.group(1)), number.start())
    inside = prompt[start + 1 : end]
    if number is not None or "|" in inside.replace("\\|", ""):
        what = "changes over the run" if number is not None else "alternates between words"
        raise UsageError(
            f"[{inside[:60]}] {what} in other programs; here a prompt is the same at every step: write one of them, or"
            " (word:0.9) for less of a word"
        )
    return 1.0 / STEP, None


def _check_weight(weight: float, prompt: str) -> None:
    if not -MOST <= weight <= MOST:
        raise UsageError(f"a weight in a prompt must be in [-{MOST:g}, {MOST:g}], got {weight:g} in {prompt[:80]!r}")


def _refuse_keywords(prompt: str) -> None:
    if network := _NETWORK.search(prompt):
        kind, name = network.group(1).lower(), network.group(2).strip()
        remedy = (
            "hypernetworks are not supported"
            if kind == "hypernet"
            else "give its file when the model is loaded: --lora FILE[:SCALE]"
        )
        raise UsageError(f"{network.group()[:80]} in a prompt loads nothing ({name[:60]!r}): leave it out; {remedy}")
    if embedding := _EMBEDDING.search(prompt):
        raise UsageError(
            f"{embedding.group()[:80]} in a prompt loads nothing: give the file with --embedding FILE, and write its"
            " word alone"
        )
    if keyword := _KEYWORD.search(prompt):
        word = keyword.group()
        remedy = (
            "a long prompt is cut into chunks by itself: leave it out"
            if word == "BREAK"
            else "prompts are not added up: say all in one prompt"
        )
        raise UsageError(f"{word} in capitals is not understood in a prompt: {remedy} (as a word: {word.lower()!r})")


def _notes(prompt: str, bare: bool, alone: bool) -> Iterator[str]:
    if bare:
        yield (
            rf"brackets are read as weights, (word) as 1.1 and [word] as 0.91; write \( and \) for brackets themselves:"
            rf" {prompt[:80]!r}"
        )
    if alone:
        yield f"a bracket without its partner is read as a character: {prompt[:80]!r}"
    for pattern, says in _NOTED:
        if pattern.search(prompt):
            yield f"{says}: {prompt[:80]!r}"
