"""The model's own tokenizer: CLIP's scheme on the words of the captions, so that each of them is one token.

Any other text falls back to pieces and single bytes, so nothing is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sfumato.emoji.scenes import Concept, Word, vocabulary
from sfumato.emoji.tokenizer import END, START, byte_letters, learn_merges
from sfumato.emoji.training.networks import MAX_TOKENS


def build_tokenizer(concepts: Sequence[Concept], folder: Path, *, merges: int = 1600) -> CLIPTokenizer:
    """Learns a tokenizer and writes its files.

    Args:
        concepts: The world's concepts.
        folder: Where `vocab.json`, `merges.txt` and the configuration go.
        merges: The most merges to learn.

    Returns:
        The tokenizer as loaded back from the folder.
    """
    learned = learn_merges({word.replace("-", ""): 1 for word in vocabulary(concepts)}, merges)
    letters = byte_letters()
    symbols = [letters[byte] for byte in sorted(letters)]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in learned), START, END]
    tokens = list(dict.fromkeys(tokens))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True, **special}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", json.dumps({token: n for n, token in enumerate(tokens)}, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in learned))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=1) + "\n")
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=1) + "\n")
    return CLIPTokenizer.from_pretrained(str(folder))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


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
        ids = torch.full((len(captions), MAX_TOKENS), self.end)
        share = torch.zeros(len(captions), len(roles), things, MAX_TOKENS)
        for row, words in enumerate(captions):
            at, ids[row, 0] = 1, self.start
            for word in words:
                tokens = self.word(word.text)[: MAX_TOKENS - 1 - at]
                ids[row, at : at + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
                if word.thing is not None and word.role in roles:
                    share[row, roles.index(word.role), word.thing, at : at + len(tokens)] = 1
                at += len(tokens)
        return ids, share / share.sum(-1, keepdim=True).clamp_min(1)
