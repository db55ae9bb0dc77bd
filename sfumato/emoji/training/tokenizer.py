"""The model's own tokenizer: CLIP's scheme on the words of the captions, so that each of them is one token.

Any other text falls back to pieces and single bytes, so nothing is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sfumato.emoji.scene_captions import Word, vocabulary
from sfumato.emoji.scenes import Concept
from sfumato.emoji.training.networks import MAX_TOKENS
from sfumato.emoji.training.vocabulary import learn_tokenizer


def build_tokenizer(concepts: Sequence[Concept], folder: Path) -> CLIPTokenizer:
    """Learns the tokenizer of a world and writes its files to `folder`."""
    return learn_tokenizer({word.replace("-", ""): 1 for word in vocabulary(concepts)}, folder, length=MAX_TOKENS)


class Encoder:
    """Token ids of captions, word by word, which is much faster than the tokenizer and knows where each word stands.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._known = tokenizer, dict[str, list[int]]()
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id

    def word(self, text: str) -> list[int]:
        """Ids of one word."""
        if text not in self._known:
            self._known[text] = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._known[text]

    def encode(self, captions: Sequence[Sequence[Word]], things: int, roles: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encodes captions.

        Args:
            captions: Words of each; none for the empty caption.
            things: How many things to find.
            roles: Roles of words to find.

        Returns:
            Ids, (captions, tokens), and for each role which share of a thing's words each token is, (captions, roles,
            things, tokens): rows of a word that is there add up to 1.
        """
        rows, places = [], []
        for row, words in enumerate(captions):
            ids = [self.start]
            for word in words:
                tokens = self.word(word.text)[: MAX_TOKENS - 1 - len(ids)]
                if word.thing is not None and word.role in roles:
                    role = roles.index(word.role)
                    places += [(row, role, word.thing, at) for at in range(len(ids), len(ids) + len(tokens))]
                ids += tokens
            rows.append(ids + [self.end] * (MAX_TOKENS - len(ids)))
        share = torch.zeros(len(captions), len(roles), things, MAX_TOKENS)
        if places:
            share[tuple(torch.tensor(places).T)] = 1
        return torch.tensor(rows), share / share.sum(-1, keepdim=True).clamp_min(1)
