"""Checks that the vocabulary of a tokenizer is complete; without it all prompts become the same tokens.

Byte-pair encoding starts from single characters, and every longer token is the work of one merge. A token that no
merge makes can never be used, so a cut-off list of merges, or none, shows in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.models.files import parse_json

_WORD_END: Final = "</w>"
_BYTES: Final = 256
_FEWEST_PIECES: Final = 32
# Placeholders that some models reserve in their vocabulary without a merge.
_RESERVED: Final = 0.02


def check_vocabulary(where: Path, files: Mapping[str, bytes]) -> None:
    """Refuses a tokenizer folder whose vocabulary is missing or cut off.

    Args:
        where: The folder, for messages.
        files: Name to content of its files.

    Raises:
        ModelError: Neither tokenizer.json nor vocab.json with merges.txt is there, or one of them is not whole.
    """
    if "tokenizer.json" not in files and not {"vocab.json", "merges.txt"} <= files.keys():
        raise ModelError(
            f"{where.parent} is incomplete: {where.name}/ has no vocabulary (tokenizer.json, or vocab.json and "
            "merges.txt); get the model again"
        )
    if "tokenizer.json" in files:
        path = where / "tokenizer.json"
        model = parse_json(path, files[path.name]).get("model")
        if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
            raise ModelError(f"{path} holds no byte-pair encoding, which CLIP's tokenizer is; get the model again")
        merges = ["".join(map(str, pair)) if isinstance(pair, list) else str(pair) for pair in model["merges"]]
        _check(path, model.get("vocab"), merges)
    if {"vocab.json", "merges.txt"} <= files.keys():
        path = where / "vocab.json"
        lines = files["merges.txt"].decode("utf-8", "replace").splitlines()
        _check(path, parse_json(path, files[path.name]), (line for line in lines if not line.startswith("#version")))


def check_pieces(where: Path, files: Mapping[str, bytes]) -> None:
    """Refuses a tokenizer folder of T5 without its pieces of words.

    Raises:
        ModelError: tokenizer.json is missing, or holds no list of pieces with their scores.
    """
    path = where / "tokenizer.json"
    if path.name not in files:
        raise ModelError(
            f"{where.parent} is incomplete: {where.name}/ has no tokenizer.json, which T5's tokenizer is read from;"
            " save the model again with transformers, or get it again"
        )
    model = parse_json(path, files[path.name]).get("model")
    pieces = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(pieces, list) or len(pieces) < _FEWEST_PIECES:
        raise ModelError(f"{path} holds no pieces of words with their scores, as T5's tokenizer does; get it again")


def _check(path: Path, vocabulary: Any, merges: Iterable[str]) -> None:
    if not isinstance(vocabulary, dict) or not all(type(value) is int for value in vocabulary.values()):
        raise ModelError(f"{path} is damaged (no vocabulary); get the model again")
    made = {merge.replace(" ", "") for merge in merges}
    longer = [token for token in vocabulary if len(token.removesuffix(_WORD_END)) > 1 and not token.startswith("<|")]
    lost = sum(token not in made for token in longer)
    if len(vocabulary) < _BYTES or lost > _RESERVED * len(longer):
        raise ModelError(
            f"{path} and its merges are not whole: of {len(vocabulary)} tokens, {lost} can never be used; get the "
            "model again"
        )
