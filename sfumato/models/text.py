"""Prompts of any length: token ids in chunks of one encoder length, and what CLIP encoders make of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count, groupby, takewhile
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import ModelError
from sfumato.models.prompt_syntax import Prompt, read_prompt
from sfumato.models.words import words_with_tokens

_LETTERS: Final = "abc"
_FACTS: Final = ("hidden_act", "num_attention_heads", "num_hidden_layers", "layer_norm_eps")


class EncoderText(ABC):
    """The text side of one text encoder, and what the adapter needs to lay out its input.

    Attributes:
        length: Positions of a chunk.
        chunk: How many of them words have.
        start: Position of the first word.
        padding: Token that fills up a chunk.
    """

    length: int
    chunk: int
    start: int
    padding: int

    @abstractmethod
    def ids(self, prompt: str) -> list[int]:
        """Token ids of the whole prompt, without start and end token."""

    @abstractmethod
    def characters(self, token_id: int) -> str:
        """A token in characters, without its mark of a word's start or end."""

    @abstractmethod
    def size(self, token_id: int) -> int | None:
        """How many bytes of text a token stands for; None: the tokenizer cannot tell."""

    def weighted_ids(self, prompt: str) -> tuple[list[int], list[float]]:
        """Token ids of a prompt's words, and the weight of each as the prompt has it, see `prompt_syntax`."""
        read = read_prompt(prompt)
        ids = self.ids(read.text)
        if not read.is_weighted:
            return ids, [1.0] * len(ids)
        parts = [(self.ids(text), weight) for text, weight in read.parts]
        if [token for part, _ in parts for token in part] != ids:  # a weight within a word: it is the whole word's
            parts = [(self.ids(word), weight) for word, weight in _weighted_words(read)]
        weights = [weight for part, weight in parts for _ in part]
        return ids, [*weights, *[1.0] * len(ids)][: len(ids)]

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        """See `TextSide`."""
        found = words_with_tokens(self, prompt)
        return [(word, tuple(self._position(token) for token in tokens)) for word, tokens in found]

    def _position(self, token: int) -> int:
        """Where a prompt's token stands: each further chunk begins with tokens of its own, and ends with them."""
        return token // self.chunk * self.length + self.start + token % self.chunk

    def tokens(self, prompt: str) -> list[tuple[int, str]]:
        """See `TextSide`."""
        return [(token, self.characters(token)) for token in self.ids(prompt)]


def check_tokenizer(tokenizer: Any, text: EncoderText, encoder: Any) -> None:
    """Refuses a tokenizer that is not its text encoder's.

    Raises:
        ModelError: They do not belong together, or the tokenizer has no vocabulary.
    """
    known, rows = len(tokenizer), encoder.get_input_embeddings().num_embeddings
    if known > rows:
        raise ModelError(
            f"the tokenizer knows {known} tokens and its text encoder {rows}: they are of different models, or an "
            "added token has no embedding"
        )
    if len({tuple(text.ids(letter)) for letter in _LETTERS}) < len(_LETTERS):
        raise ModelError("the tokenizer has no vocabulary: it gives different texts the same tokens; load it again")


class ClipText(EncoderText):
    """The text side of a CLIP encoder."""

    start = 1

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        """Takes the tokenizer and the text encoder that it belongs to.

        Raises:
            ModelError: They do not belong together, or the tokenizer has no vocabulary.
        """
        self._tokenizer = tokenizer
        # a tokenizer that was saved without its length says 10^30
        self.length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
        self.chunk = self.length - 2
        self.start_token, self.end_token = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
        self.padding = self.end_token if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        check_tokenizer(tokenizer, self, encoder)

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

    def characters(self, token_id: int) -> str:
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


def chunked_ids(tokenizer: ClipText, prompts: Sequence[str], chunks: int | None = None) -> Tensor:
    """Token ids, (rows, chunks, length): each chunk framed by start and end token and padded.

    All rows get as many chunks as the longest prompt needs, or `chunks` when that is more.
    """
    size = tokenizer.chunk
    words = [tokenizer.weighted_ids(prompt)[0] for prompt in prompts]
    count = max([1, chunks or 1, *(-(-len(ids) // size) for ids in words)])
    rows = []
    for ids in words:
        framed = [[tokenizer.start_token, *ids[i * size : (i + 1) * size], tokenizer.end_token] for i in range(count)]
        rows.append([chunk + [tokenizer.padding] * (tokenizer.length - len(chunk)) for chunk in framed])
    return torch.tensor(rows)


def reweighted(embeds: Tensor, tokenizer: EncoderText, prompts: Sequence[str], empty: Callable[[], Tensor]) -> Tensor:
    r"""Embeddings with the weights of their prompts: e + (w - 1) (e - e_empty) at each token, w its weight.

    Args:
        embeds: Text encoder output, (rows, chunks x length, dim).
        tokenizer: That of the encoder.
        prompts: One a row.
        empty: Gives the output for the empty prompt, (1, length, dim); asked where any weight is not 1.
    """
    size, chunks = tokenizer.chunk, embeds.shape[1] // tokenizer.length
    factors = torch.ones(len(prompts), chunks, tokenizer.length)
    for row, prompt in enumerate(prompts):
        weights = tokenizer.weighted_ids(prompt)[1]
        for chunk in range(chunks):
            of_chunk = weights[chunk * size : (chunk + 1) * size]
            factors[row, chunk, tokenizer.start : tokenizer.start + len(of_chunk)] = torch.tensor(of_chunk)
    if bool((factors == 1.0).all()):
        return embeds
    nothing = empty().repeat(1, chunks, 1)
    return embeds + (factors.flatten(1)[..., None].to(embeds) - 1.0) * (embeds - nothing)


def _weighted_words(prompt: Prompt) -> list[tuple[str, float]]:
    """Words between spaces, each with the weight of its letters that is furthest from 1."""
    letters = [(letter, weight) for text, weight in prompt.parts for letter in text]
    words = [list(group) for is_space, group in groupby(letters, key=lambda one: one[0].isspace()) if not is_space]
    return [
        ("".join(letter for letter, _ in word), max((weight for _, weight in word), key=lambda w: abs(w - 1.0)))
        for word in words
    ]


def penultimate(
    tokenizer: ClipText, encoder: Any, texts: Sequence[str], chunks: int, *, skip: int = 0
) -> tuple[Tensor, Tensor]:
    """What a CLIP encoder's layer before the last one gives, and its pooled embedding of the first chunk.

    Args:
        tokenizer, encoder: Of one model.
        texts: Prompts, one a row.
        chunks: At least as many for each row.
        skip: Further layers that are left out.

    Returns:
        Embeddings, (rows, chunks x length, dim), with the weights of the prompts; pooled ones, (rows, dim).
    """

    def encoded(texts: Sequence[str], chunks: int) -> tuple[Tensor, Tensor]:
        ids = chunked_ids(tokenizer, texts, chunks).to(encoder.device)
        output = encoder(ids.flatten(0, 1), output_hidden_states=True)
        embeds = output.hidden_states[-2 - skip].unflatten(0, ids.shape[:2]).flatten(1, 2)
        return embeds, output[0].unflatten(0, ids.shape[:2])[:, 0]

    embeds, pooled = encoded(texts, chunks)
    return reweighted(embeds, tokenizer, texts, lambda: encoded([""], 1)[0]), pooled


def fingerprint(encoders: Sequence[Any], tokenizers: Sequence[EncoderText]) -> str:
    """Hash of text encoders and their vocabularies, 16 hexadecimal digits; the same in every precision.

    Of the weights only the signs are taken: rounding to half precision keeps every one of them, and no two trainings
    agree on all.
    """
    digest = hashlib.sha256()
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        config = encoder.config
        parts = tuple(getattr(config, key, None) for key in _FACTS)  # T5 has other names for some of them
        digest.update(repr((parts, tokenizer.length, tokenizer.padding)).encode())
        for parameter in encoder.parameters():
            digest.update(str(tuple(parameter.shape)).encode())
            digest.update(np.packbits(torch.signbit(parameter.detach()).cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
