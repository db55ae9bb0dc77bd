"""The pieces of a prompt: its words and punctuation as they are kept, swapped and looked up.

Positions are those of the text that attention looks at, see `models.base.TextSide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from sfumato.models.base import TextSide
from sfumato.models.prompt_syntax import plain_text
from sfumato.models.words import PUNCTUATION


@dataclass(frozen=True)
class Piece:
    """A part of a prompt that is kept, swapped or looked up as a whole.

    Attributes:
        text: As it is written.
        key: The same without regard to case.
        positions: Of its tokens.
        word: Which of the prompt's words, split at spaces, it is in.
        is_punctuation: Whether it is punctuation alone.
    """

    text: str
    key: str
    positions: tuple[int, ...]
    word: int
    is_punctuation: bool


class ReadOnce:
    """A text side that cuts each prompt once: for where the same prompts are asked about many times in a row.

    Attributes:
        length, start: As of the text.
        sides: Of a text whose encoders' positions follow one another, each of them, likewise; else empty.
    """

    def __init__(self, text: TextSide) -> None:
        self.length, self.start = text.length, text.start
        self.sides: tuple[ReadOnce, ...] = tuple(ReadOnce(side) for side in getattr(text, "sides", ()))
        self._text, self._words = text, dict[str, list[tuple[str, tuple[int, ...]]]]()

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        """See `TextSide`."""
        if prompt not in self._words:
            self._words[prompt] = self._text.words(prompt)
        return self._words[prompt]

    def tokens(self, prompt: str) -> list[tuple[int, str]]:
        """See `TextSide`."""
        return self._text.tokens(prompt)


def pieces_of(text: TextSide, prompt: str) -> list[Piece]:
    """The pieces of a prompt in order. Every token is in exactly one of them."""
    ends = list(accumulate(len(word) for word in plain_text(prompt).split()))
    pieces, letters, word = [], 0, 0
    for written, positions in text.words(prompt):
        letters += len(written)
        while ends[word] < letters:
            word += 1
        is_punctuation = all(letter in PUNCTUATION for letter in written)
        pieces.append(Piece(written, written.casefold(), positions, word, is_punctuation))
    return pieces


def occurrences(pieces: Sequence[Piece], wanted: str) -> list[list[int]]:
    """Token positions of each place where a word or phrase stands, without regard to case.

    Punctuation around it does not count, nor does any within it where the phrase has none; where it has, it must be
    there.
    """
    sought = " ".join(wanted.casefold().split())
    for seen in (list(pieces), [piece for piece in pieces if not piece.is_punctuation]):
        joints = [" " if k and piece.word != seen[k - 1].word else "" for k, piece in enumerate(seen)]
        ends = list(accumulate(len(joint) + len(piece.key) for joint, piece in zip(joints, seen, strict=True)))
        starts = {end - len(piece.key): k for k, (end, piece) in enumerate(zip(ends, seen, strict=True))}
        stops = {end: k for k, end in enumerate(ends)}
        line = "".join(joint + piece.key for joint, piece in zip(joints, seen, strict=True))
        found = []
        at = line.find(sought) if sought else -1
        while at >= 0:
            if at in starts and at + len(sought) in stops:
                inside = seen[starts[at] : stops[at + len(sought)] + 1]
                found.append([position for piece in inside for position in piece.positions])
            at = line.find(sought, at + 1)
        if found:
            return found
    return []
