"""Prompts of any length: CLIP token ids in chunks of one encoder length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import ModelError

_LETTERS: Final = "abc"


class ClipTokenizer:
    """What a method may see of a CLIP tokenizer, and what the adapter needs to lay out its input."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        """Takes the tokenizer and the text encoder that it belongs to.

        Raises:
            ModelError: They do not belong together, or the tokenizer has no vocabulary.
        """
        self._tokenizer = tokenizer
        # a tokenizer that was saved without its length says 10^30
        self.length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
        self.max_words_tokens = self.length - 2
        self.start, self.end = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self.padding = self.end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        known, rows = len(tokenizer), encoder.get_input_embeddings().num_embeddings
        if known > rows:
            raise ModelError(
                f"the tokenizer knows {known} tokens and its text encoder {rows}: they are of different models, or an "
                "added token has no embedding"
            )
        if len({tuple(self.ids(letter)) for letter in _LETTERS}) < len(_LETTERS):
            raise ModelError("the tokenizer has no vocabulary: it gives different texts the same tokens; load it again")

    def ids(self, prompt: str) -> list[int]:
        """Token ids of the whole prompt, without start and end token."""
        # verbose=False: going past one chunk is meant, the library's warning about it would mislead
        ids = list(self._tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids)
        learned = self._learned()
        if not any(token in learned for token in ids):
            return ids
        found: list[int] = []
        for index, token in enumerate(ids):
            rest = learned.get(token, [])
            found += [token] if ids[index + 1 : index + 2] == rest[:1] else [token, *rest]
        return found

    def text(self, token_id: int) -> str:
        """A token in characters, without its end-of-word mark."""
        return str(self._tokenizer.decode([token_id])).strip()

    def _learned(self) -> dict[int, list[int]]:
        """Of words with several vectors (textual inversions, as diffusers adds them): first token to the others."""
        added = self._tokenizer.get_added_vocab()
        learned = {}
        for name, token in added.items():
            rest = takewhile(lambda key: key in added, (f"{name}_{k}" for k in count(1)))
            learned[token] = [added[key] for key in rest]
        return {token: rest for token, rest in learned.items() if rest}

    def size(self, token_id: int) -> int:
        """How many bytes of text a token stands for; in byte-level encoding each has a letter of its own.

        Of a word with several vectors, the first stands for all of it.
        """
        if any(token_id in rest for rest in self._learned().values()):
            return 0
        if token_id in self._tokenizer.added_tokens_decoder:
            return len(str(self._tokenizer.convert_ids_to_tokens(token_id)).encode())
        return len(str(self._tokenizer.convert_ids_to_tokens(token_id)).removesuffix("</w>"))


def chunked_ids(tokenizer: ClipTokenizer, prompts: Sequence[str], chunks: int | None = None) -> Tensor:
    """Token ids, (rows, chunks, length): each chunk framed by start and end token and padded.

    All rows get as many chunks as the longest prompt needs, or `chunks` when that is more.
    """
    size = tokenizer.max_words_tokens
    words = [tokenizer.ids(prompt) for prompt in prompts]
    count = max([1, chunks or 1, *(-(-len(ids) // size) for ids in words)])
    rows = []
    for ids in words:
        framed = [[tokenizer.start, *ids[i * size : (i + 1) * size], tokenizer.end] for i in range(count)]
        rows.append([chunk + [tokenizer.padding] * (tokenizer.length - len(chunk)) for chunk in framed])
    return torch.tensor(rows)


def fingerprint(encoders: Sequence[Any], tokenizers: Sequence[ClipTokenizer]) -> str:
    """Hash of text encoders and their vocabularies, 16 hexadecimal digits; the same in every precision.

    Of the weights only the signs are taken: rounding to half precision keeps every one of them, and no two trainings
    agree on all.
    """
    digest = hashlib.sha256()
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        config = encoder.config
        told = (config.hidden_act, config.num_attention_heads, config.num_hidden_layers, config.layer_norm_eps)
        digest.update(repr((told, tokenizer.length, tokenizer.padding)).encode())
        for parameter in encoder.parameters():
            digest.update(str(tuple(parameter.shape)).encode())
            digest.update(np.packbits(torch.signbit(parameter.detach()).cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
