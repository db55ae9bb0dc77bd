"""How SD3 and FLUX read prompts: CLIP encoders and T5, as one condition.

Text positions carry no order of their own in either network, so a longer prompt is further chunks behind the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sfumato.models.base import POOLED, Condition, TextSide
from sfumato.models.t5 import T5Text
from sfumato.models.text import ClipText, chunked_ids, fingerprint, penultimate


class PromptReader(TextSide, Protocol):
    """A text side with its encoders."""

    @property
    def encoders(self) -> tuple[Any, ...]:
        """The networks."""

    @property
    def fingerprint(self) -> str:
        """See `Model.text_fingerprint`."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row a prompt, all of equally many tokens."""


class FluxText:
    """T5's tokens, and the pooled output of CLIP-L, not projected."""

    start = 0

    def __init__(self, clip: tuple[Any, Any], t5: tuple[Any, Any], length: int) -> None:
        """Takes (tokenizer, encoder) of both, and the positions of a chunk of T5's."""
        self.clip, self.clip_encoder = ClipText(*clip), clip[1]
        self.t5, self.length = T5Text(*t5, length), length
        self.encoders = (clip[1], t5[1])

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.encoders, (self.clip, self.t5))

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        return self.t5.words(prompt)

    def tokens(self, prompt: str) -> list[tuple[int, str]]:
        return self.t5.tokens(prompt)

    def encode(self, prompts: Sequence[str]) -> Condition:
        ids = chunked_ids(self.clip, prompts)[:, 0].to(self.clip_encoder.device)
        pooled: Tensor = self.clip_encoder(ids).pooler_output
        return Condition(self.t5.encode(prompts, self.t5.chunks(prompts)), {POOLED: pooled})


class SD3Text:
    """A chunk is CLIP's 77 positions, CLIP-L's and CLIP-G's features side by side, then T5's; pooled is CLIP's alone.

    T5 may be missing: zeros stand in its place, as the network was trained to take.
    """

    def __init__(
        self, clip_l: tuple[Any, Any], clip_g: tuple[Any, Any], t5: tuple[Any, Any] | None, *, length: int, width: int
    ) -> None:
        """Takes (tokenizer, encoder) of each, the positions of a chunk of T5's, and the width of the embeddings."""
        self.clips = [(ClipText(*pair), pair[1]) for pair in (clip_l, clip_g)]
        self.t5 = None if t5 is None else T5Text(*t5, length)
        self.t5_length, self.width = length, width
        self.clip = self.clips[0][0]
        self.start, self.length = self.clip.start, self.clip.length + length
        self.sides = (self.clip, *(() if self.t5 is None else (self.t5,)))
        self.encoders = (clip_l[1], clip_g[1], *(() if t5 is None else (t5[1],)))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.encoders, [*(clip for clip, _ in self.clips), *([self.t5] if self.t5 else [])])

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        """Each word with CLIP's and T5's positions; those of T5 where it cuts the prompt alike."""
        words = self.clip.words(prompt)
        of_t5 = self.t5.words(prompt) if self.t5 is not None else []
        alike = [word for word, _ in words] == [word for word, _ in of_t5]
        more = [positions for _, positions in of_t5] if alike else [()] * len(words)
        return [
            (
                word,
                (
                    *(p // self.clip.length * self.length + p % self.clip.length for p in own),
                    *(p // self.t5_length * self.length + self.clip.length + p % self.t5_length for p in others),
                ),
            )
            for (word, own), others in zip(words, more, strict=True)
        ]

    def tokens(self, prompt: str) -> list[tuple[int, str]]:
        """CLIP's."""
        return self.clip.tokens(prompt)

    def encode(self, prompts: Sequence[str]) -> Condition:
        by_clip = chunked_ids(self.clip, prompts).shape[1]
        chunks = by_clip if self.t5 is None else self.t5.chunks(prompts)
        encoded = [penultimate(clip, encoder, prompts, by_clip) for clip, encoder in self.clips]
        clip = torch.cat([embeds for embeds, _ in encoded], dim=-1)
        clip = functional.pad(clip, (0, self.width - clip.shape[-1])).unflatten(1, (by_clip, -1))
        if by_clip < chunks:
            empty = self.encode([""]).text[:, : self.clip.length]
            clip = torch.cat([clip, empty[:, None].expand(len(clip), chunks - by_clip, -1, -1)], dim=1)
        if self.t5 is None:
            t5 = clip.new_zeros(len(clip), chunks, self.t5_length, self.width)
        else:
            t5 = self.t5.encode(prompts, chunks).unflatten(1, (chunks, -1))
        text = torch.cat([clip[:, :chunks], t5.to(clip)], dim=2).flatten(1, 2)  # CLIP's end where T5's chunks do
        return Condition(text, {POOLED: torch.cat([pooled for _, pooled in encoded], dim=-1)})
