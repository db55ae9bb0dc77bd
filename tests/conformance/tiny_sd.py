"""The model of the golden cases, made complete.

`tiny-sd` is a Stable Diffusion 1.x at toy width with seeded random weights. Its tokenizer is CLIP's, whose vocabulary
is not kept here: it follows from the byte-pair merges that the open-clip-torch wheel holds.
"""

import gzip
import importlib.util
import json
import shutil
from pathlib import Path

from tests.conformance.golden import COMMITTED

# CLIP keeps this many merges of the file; with 2 * 256 bytes and 2 special tokens that makes 49,408 tokens.
NUM_MERGES = 49152 - 256 - 2

START, END = "<|startoftext|>", "<|endoftext|>"


def complete_tiny_sd(root: Path, into: Path) -> Path:
    """A folder with all of tiny-sd.

    That is the one below `root`, or the committed one if there is none; one without a tokenizer is copied to `into`.
    """
    source = next(folder for folder in (root / "tiny-sd", COMMITTED / "tiny-sd") if folder.is_dir())
    if (source / "tokenizer").is_dir():
        return source
    target = into / "tiny-sd"
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    write_clip_tokenizer(target / "tokenizer")
    return target


def write_clip_tokenizer(folder: Path) -> None:
    """Writes CLIP's tokenizer as transformers reads it: vocab.json, merges.txt, tokenizer_config.json."""
    lines = gzip.decompress(_merges_file().read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : NUM_MERGES + 1]  # after the version line
    letters = _letters_of_bytes()
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(pair.split()) for pair in merges),
        START,
        END,
    ]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "model_max_length": 77,
    }

    folder.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _letters_of_bytes() -> list[str]:
    """A printable letter for each byte: the printable as themselves and first, the others from code point 256 on."""
    printable = [byte for byte in range(256) if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE]
    return [chr(code) for code in (*printable, *range(256, 512 - len(printable)))]


def _merges_file() -> Path:
    # finds the package without importing it: its own dependencies are not installed
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            "the tests build CLIP's tokenizer from a file in open-clip-torch, which is not installed; "
            "run `make test`, or: pip install --no-deps open-clip-torch"
        )
    return Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
