"""The model's own tokenizer: CLIP's scheme (lower case, byte-level BPE, `</w>` ends a word) on a small vocabulary.

The vocabulary is learned from words that are each to be one token; any other text falls back to pieces and single
bytes, so nothing is unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        letters.setdefault(byte, chr(0x100 + sum(1 for known in letters.values() if ord(known) >= 0x100)))
    return letters


def learn_merges(counts: dict[str, int], number: int) -> list[tuple[str, str]]:
    """Learns byte-pair merges, the most frequent pair first; ties go to the alphabetically first pair.

    Args:
        counts: Word -> how often it is seen.
        number: The most merges to learn.

    Returns:
        The merges, in order.
    """
    letters = byte_letters()
    words = []
    for word, count in counts.items():
        symbols = [letters[byte] for byte in word.encode()]
        words.append(([*symbols[:-1], symbols[-1] + "</w>"], count))
    merges: list[tuple[str, str]] = []
    for _ in range(number):
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in words:
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols, _ in words:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def learn_tokenizer(counts: dict[str, int], folder: Path, *, length: int, merges: int = 1600) -> CLIPTokenizer:
    """Learns a tokenizer from words and writes its files.

    Args:
        counts: Word -> how often it is seen.
        folder: Where the files go.
        length: The most tokens of a prompt.
        merges: The most merges to learn.

    Returns:
        The tokenizer as loaded back from the folder.
    """
    learned = learn_merges(counts, merges)
    letters = byte_letters()
    symbols = [letters[byte] for byte in sorted(letters)]
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    vocabulary += ["".join(pair) for pair in learned]
    _write(folder, list(dict.fromkeys([*vocabulary, START, END])), learned, length)
    return CLIPTokenizer.from_pretrained(str(folder))


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes a tokenizer as `learn_tokenizer` does, in the files that every version of transformers reads.

    Newer ones save all in `tokenizer.json`, which older ones read differently.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = tokenizer.get_vocab()
    merges = [(left, right) for left, right in model["merges"]]
    _write(folder, sorted(vocabulary, key=vocabulary.__getitem__), merges, tokenizer.model_max_length)


def _write(folder: Path, vocabulary: Sequence[str], merges: Sequence[tuple[str, str]], length: int) -> None:
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True, **special}
    ids = {token: index for index, token in enumerate(vocabulary)}
    texts = {
        "vocab.json": json.dumps(ids, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges),
        "tokenizer_config.json": json.dumps(config, indent=1) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=1) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
