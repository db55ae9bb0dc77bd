"""What a part's configuration may ask for: nothing from elsewhere, and no network larger than its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.models.files import Header, parse_json

# A configuration may name code or files to be fetched or opened; none of these is needed by the models supported here.
_FOREIGN: Final = ("auto_map", "custom_pipelines", "transformers_weights", "kernel_config")
_ELSEWHERE: Final = ("vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files", "added_tokens_file")

# Sizes that no weight shows (training resolution, head counts) may be as large as this all the same.
_ALWAYS_FINE: Final = 8192
_LABELS: Final = ("id2label", "label2id")
_MAX_TRAIN_TIMESTEPS: Final = 100_000


def check_config(path: Path, content: bytes) -> None:
    """Refuses a configuration that names code, files elsewhere or quantised weights.

    Raises:
        ModelError: It does, or is damaged.
    """
    config = parse_json(path, content)
    for keys, value in _leaves(config):
        key = keys[-1]
        implementation = key.endswith("implementation") or "implementation_internal" in key
        elsewhere = key in _ELSEWHERE and value is not None
        if any(name in _FOREIGN for name in keys) or elsewhere or (implementation and "/" in str(value)):
            raise ModelError(
                f"{path} asks for code or files from elsewhere ({'.'.join(keys)}: {value!r:.100}), which are not "
                "loaded; remove that entry if the model is sound without it"
            )
        if keys[0] == "quantization_config" and value is not None:
            raise ModelError(f"{path} is of quantised weights ({key}: {value!r:.100}); give the plain ones")
        if key == "num_train_timesteps" and value is not None and not _in(value, 1, _MAX_TRAIN_TIMESTEPS):
            raise ModelError(f"{path}: {key} must be a whole number up to {_MAX_TRAIN_TIMESTEPS}, got {value!r:.100}")


def check_sizes(path: Path, content: bytes, headers: Iterable[Header]) -> None:
    """Refuses an architecture that its weights cannot fill, before anything of that size is built.

    A layer has one tensor at least, so there are no more layers than tensors; a width is a side of some tensor.

    Raises:
        ModelError: Names the entry.
    """
    shapes = [shape for header in headers for shape in header.shapes.values()]
    count, widest = len(shapes), max((side for shape in shapes for side in shape), default=0)
    for config in _dicts(parse_json(path, content)):
        blocks = layers = 1
        for key, value in config.items():
            numbers = list(_numbers(value))
            deep = "layers" in key and "only" not in key
            bound = count if deep or key.endswith("_blocks") else max(widest, _ALWAYS_FINE)
            if not all(_in(number, -bound, bound) for number in numbers):
                raise _too_large(path, f"{key}: {value!r:.100}", count, widest)
            if isinstance(value, list):
                blocks = max(blocks, len(value))
            if deep:
                layers *= max([1, *(math.ceil(number) for number in numbers)])
        if blocks * layers > max(count, 1):
            raise _too_large(path, f"{blocks} blocks of {layers} layers", count, widest)


def _too_large(path: Path, what: str, count: int, widest: int) -> ModelError:
    return ModelError(
        f"{path} describes a larger network ({what}) than its weights are of ({count} tensors, none wider than "
        f"{widest}); get the model again"
    )


def _in(value: Any, low: int, high: int) -> bool:
    return isinstance(value, (int, float)) and low <= value <= high  # never true of NaN and infinity


def _dicts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config
    for key, value in config.items():
        if isinstance(value, dict) and key not in _LABELS:
            yield from _dicts(value)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _numbers(entry)


def _leaves(value: Any, keys: Sequence[str] = ()) -> Iterator[tuple[Sequence[str], Any]]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _leaves(entry, (*keys, str(key)))
    elif isinstance(value, list) and value:
        for entry in value:
            yield from _leaves(entry, keys)
    elif keys:
        yield keys, value
