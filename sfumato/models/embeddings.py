"""Textual inversions: new words for prompts (Gal et al., 2022, https://arxiv.org/abs/2208.01618).

A word has one or several vectors. A file holds them under the word itself (diffusers), or under a fixed name
("emb_params"; for Stable Diffusion XL "clip_l" and "clip_g", one for each text encoder), and then the word is the
file's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.models.files import Header, read_header
from sfumato.models.identify import is_embedding, refuse_foreign

MAX_VECTORS: Final = 750
"""Ten chunks of a prompt."""

# Fixed name -> which text encoder it is for
_FIXED: Final = {"emb_params": 0, "string_to_param.*": 0, "*": 0, "clip_l": 0, "clip_g": 1}


def check_embedding(path: Path) -> str:
    """The word that a file of a textual inversion stands for.

    Raises:
        ModelError: The file is something else (named), or its vectors are none.
    """
    header = read_header(path)
    header.check_floats()
    if not is_embedding(header):
        try:
            refuse_foreign(header)
        except ModelError as error:
            raise ModelError(f"no textual inversion: {error}") from None
        raise ModelError(f"{path} is a whole model, not a textual inversion; give it as the model")
    for key, shape in header.shapes.items():
        rows = 1 if len(shape) == 1 else shape[0]
        if len(shape) not in (1, 2) or not 1 <= rows <= MAX_VECTORS:
            raise ModelError(f"{path} holds {key} of shape {shape}, where 1 to {MAX_VECTORS} vectors are expected")
    return _token(path, header)


def add_embedding(pipeline: Any, path: Path, token: str) -> int:
    """Gives a pipeline's tokenizers and text encoders a word; gives how many vectors it has.

    Raises:
        ModelError: It was made for other text encoders, or the word is there already.
    """
    from safetensors.torch import load_file

    pairs = [
        (getattr(pipeline, f"tokenizer{end}"), getattr(pipeline, f"text_encoder{end}"))
        for end in ("", "_2")
        if getattr(pipeline, f"text_encoder{end}", None) is not None
    ]
    tensors = load_file(path)
    wanted = [encoder.get_input_embeddings().embedding_dim for _, encoder in pairs]
    sides = {_FIXED.get(key, 0): value.reshape(-1, value.shape[-1]) for key, value in tensors.items()}
    found = [sides[side].shape[-1] for side in sorted(sides)]
    if found != wanted:
        raise ModelError(
            f"{path} was made for another model: its vectors have {_widths(found)} entries, the text encoders of this"
            f" one {_widths(wanted)}"
        )
    counts = {len(vectors) for vectors in sides.values()}
    if len(counts) > 1 or not all(bool(vectors.isfinite().all()) for vectors in sides.values()):
        raise ModelError(f"{path} is damaged: its vectors are not finite, or not equally many; download it again")
    names = [token, *(f"{token}_{k}" for k in range(1, counts.copy().pop()))]
    for (tokenizer, encoder), side in zip(pairs, sorted(sides), strict=True):
        _add(tokenizer, encoder, names, sides[side], path)
    return len(names)


def learned_words(pipeline: Any) -> Iterator[tuple[str, list[float]]]:
    """Words that were added to a pipeline's tokenizers, each with its whole vector."""
    for end in ("", "_2"):
        tokenizer, encoder = getattr(pipeline, f"tokenizer{end}", None), getattr(pipeline, f"text_encoder{end}", None)
        if tokenizer is None or encoder is None:
            continue
        table = encoder.get_input_embeddings().weight.detach()
        for name, token in sorted(tokenizer.get_added_vocab().items()):
            if not name.startswith("<|") and token < len(table):
                yield f"{end}{name}", table[token].double().tolist()


def _add(tokenizer: Any, encoder: Any, names: list[str], vectors: Any, path: Path) -> None:
    """New tokens at the end of the vocabulary, with their rows; no random number is drawn on the way."""
    import torch
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    known = [name for name in names if name in vocabulary or f"{name.lower()}</w>" in vocabulary]
    if known:
        raise ModelError(f"{known[0]!r} is a word of the model already; rename {path}, its name is the word in prompts")
    added = tokenizer.get_added_vocab()
    base, _, number = names[0].rpartition("_")
    next_to = base if number.isdigit() and base in added else f"{names[0]}_{len(names)}"
    if next_to in added:
        raise ModelError(
            f"{names[0]!r} would be read as one word with {next_to!r}, which was added before: rename {path}, its name"
            " is the word in prompts"
        )
    size = len(tokenizer)
    # a whole word: one of a file named art.safetensors is not found in "smart"
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in names])
    table = encoder.get_input_embeddings()
    rows = torch.cat([table.weight.detach()[:size], vectors.to(table.weight)])
    encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows, freeze=not table.weight.requires_grad))
    encoder.config.vocab_size = len(rows)
    _find_end_by_its_id(encoder, int(tokenizer.eos_token_id))


def _find_end_by_its_id(encoder: Any, end: int) -> None:
    """Old configurations say 2 for the end token, and the encoder then takes the largest id of all for the end."""
    for module in (encoder, getattr(encoder, "text_model", None)):
        if getattr(module, "eos_token_id", None) == 2:
            module.eos_token_id = end  # type: ignore[union-attr]


def _token(path: Path, header: Header) -> str:
    keys = [key for key in header.shapes if key not in _FIXED]
    if len(keys) > 1 or (keys and len(header.shapes) > 1):
        raise ModelError(f"{path} holds several words ({', '.join(sorted(header.shapes))[:200]}); give one file a word")
    token = re.sub(r"\s+", "-", keys[0].strip() if keys else path.stem.strip())
    if not token or len(token) > 100 or not token.isprintable():
        raise ModelError(f"{path} stands for the word {token[:100]!r}, which cannot be written in a prompt; rename it")
    return token


def _widths(sides: list[int]) -> str:
    return " and ".join(str(width) for width in sides) or "no"
