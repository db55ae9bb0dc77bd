"""The text side of a T5 encoder, which SD3 and FLUX read the words of a prompt with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.models.prompt_syntax import plain_text
from sfumato.models.text import EncoderText, check_tokenizer, reweighted

_WORD_START = "\u2581"
"""The mark of SentencePiece before a word."""


class T5Text(EncoderText):
    """T5's tokens: no start token, one end token, then padding, which the network reads too.

    The encoder knows no positions of its own, so a longer prompt is read in one piece; its embeddings are as many
    chunks of `length` as it needs.
    """

    start = 0

    def __init__(self, tokenizer: Any, encoder: Any, length: int) -> None:
        """Takes the tokenizer, the encoder it belongs to, and the positions of one chunk.

        Raises:
            ModelError: They do not belong together, or the tokenizer has no vocabulary.
        """
        self._tokenizer, self._encoder = tokenizer, encoder
        self.length = self.chunk = length
        self.padding, self.end_token = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
        check_tokenizer(tokenizer, self, encoder)

    def ids(self, prompt: str) -> list[int]:
        return list(self._tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    def characters(self, token_id: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token_id)).replace(_WORD_START, "")

    def size(self, token_id: int) -> int | None:
        return None if token_id == self._tokenizer.unk_token_id else len(self.characters(token_id).encode())

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        """See `TextSide`; a mark of a word's start that is a token by itself belongs to that word."""
        ids = self.ids(plain_text(prompt))
        words, moved = [], 0
        for word, positions in super().words(prompt):
            if not positions:  # nothing is left of it: T5's tokenizer leaves out characters that are not seen
                words.append((word, positions))
                continue
            first, end = positions[0] - moved, positions[-1] + 1
            moved = 0
            while end - first > 1 and ids[end - 1 - moved : end - moved] and not self.characters(ids[end - 1 - moved]):
                moved += 1
            words.append((word, tuple(range(first, end - moved))))
        return words

    def chunks(self, prompts: Sequence[str]) -> int:
        """How many chunks the longest prompt needs, at least 1; its end token is in the last one."""
        return max(len(self.weighted_ids(prompt)[0]) // self.length + 1 for prompt in prompts)

    def encode(self, prompts: Sequence[str], chunks: int) -> Tensor:
        """Embeddings with the weights of the prompts, (rows, chunks x length, dim).

        The encoder reads padding, too, so each prompt has that of its own chunks: what it means must not depend on the
        prompts beside it. Chunks of the empty prompt follow, as many as are missing.
        """

        def encoded(prompts: Sequence[str], chunks: int) -> Tensor:
            words = [[*self.weighted_ids(prompt)[0], self.end_token] for prompt in prompts]
            rows = [ids + [self.padding] * (chunks * self.length - len(ids)) for ids in words]
            output: Tensor = self._encoder(torch.tensor(rows, device=self._encoder.device))[0]
            return output

        needed = [self.chunks([prompt]) for prompt in prompts]
        rows: dict[int, Tensor] = {}
        for count in set(needed):
            alike = [row for row, own in enumerate(needed) if own == count]
            texts = [prompts[row] for row in alike]
            embeds = reweighted(encoded(texts, count), self, texts, lambda: encoded([""], 1))
            if count < chunks:
                embeds = torch.cat([embeds, encoded([""], 1).repeat(len(alike), chunks - count, 1)], dim=1)
            rows |= dict(zip(alike, embeds, strict=True))
        return torch.stack([rows[row] for row in range(len(prompts))])
