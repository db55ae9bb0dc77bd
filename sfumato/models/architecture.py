"""What a part's configuration may ask for: nothing from elsewhere, and no network larger than its weights."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def _is_number(value: Any, low: float, high: float) -> bool:
    return not isinstance(value, bool) and _in(value, low, high)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return value is None or (isinstance(value, int) and _is_number(value, low, high))


def _is_list(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_is_number(entry, -_FAR, _FAR) for entry in value))


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) else [value, value]
    return len(sides) == 2 and all(_is_whole(side, 1, _ALWAYS_FINE) for side in sides)


_FAR: Final = 1e6
_TOKEN: Final[tuple[str, Callable[[Any], bool]]] = ("a whole number", lambda value: _is_whole(value, -1, 1 << 22))

# Entries that are used without a library's check: what they must be. None, which stands for a default, is fine.
_VALUES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "num_train_timesteps": ("a whole number up to 100000", lambda value: _is_whole(value, 1, 100_000)),
    "scaling_factor": ("a positive number", lambda value: _is_number(value, 1 / _FAR, _FAR)),
    "shift_factor": ("a number", lambda value: value is None or _is_number(value, -_FAR, _FAR)),
    "latents_mean": ("a list of numbers", _is_list),
    "latents_std": ("a list of numbers", _is_list),
    "sample_size": (f"a whole number up to {_ALWAYS_FINE}, or two", _is_size),
    "model_max_length": ("a number of tokens", lambda value: value is None or _is_number(value, 3, math.inf)),
    "eos_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
}


def check_config(path: Path, content: bytes) -> None:
    """Refuses a configuration that names code, files elsewhere or quantised weights, or values that cannot be used.

    Raises:
        ModelError: It does, or is damaged.
    """
    config = parse_json(path, content)
    for key, value in (entry for part in _dicts(config) for entry in part.items()):
        if key in _VALUES and not _VALUES[key][1](value):
            raise ModelError(f"{path}: {key} must be {_VALUES[key][0]}, got {value!r:.100}")
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
            # a list of which layers have something, and the decoder of a T5 whose encoder alone is built, add none
            deep = "layers" in key and not any(word in key for word in ("only", "dual", "decoder"))
            bound = count if deep or key.endswith("_blocks") else max(widest, _ALWAYS_FINE)
            if key == "pos_embed_max_size":  # the side of a square table of positions
                bound = math.isqrt(widest)
            if not all(_in(number, -bound, bound) for number in numbers):
                raise _too_large(path, f"{key}: {value!r:.100}", count, widest)
            if isinstance(value, list) and "dual" not in key:
                blocks = max(blocks, len(value))
            if deep:
                layers *= max([1, *(math.ceil(number) for number in numbers)])
        if blocks * layers > max(count, 1):
            raise _too_large(path, f"{blocks} blocks of {layers} layers", count, widest)


def check_types(path: Path, content: bytes, network: type) -> None:
    """Refuses values of another type than the defaults of the class that is built from them.

    Raises:
        ModelError: Names the entry.
    """
    config = parse_json(path, content)
    for name, parameter in inspect.signature(network).parameters.items():
        if name in config and not _fits(parameter.default, config[name]):
            raise ModelError(f"{path}: {name} must be like {parameter.default!r}, got {config[name]!r:.100}")


def _fits(default: Any, value: Any) -> bool:
    if isinstance(value, list) and not isinstance(default, tuple):
        return all(_fits(default, entry) for entry in value)  # one for each level of the network
    if value is None or default is None or default is inspect.Parameter.empty:
        return True
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, list if isinstance(default, tuple) else type(default))


def check_memory(name: str, headers: Iterable[Header], item_size: int) -> None:
    """Refuses weights that this machine cannot hold, before any of them is read.

    Args:
        name: The model, for the message.
        headers: Of its weight files.
        item_size: Bytes that a number takes once it is loaded.

    Raises:
        ModelError: They are larger than the memory of the machine, as far as that is known.
    """
    needed = item_size * sum(math.prod(shape) for header in headers for shape in header.shapes.values())
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return
    if needed > there > 0:
        raise ModelError(
            f"{name} needs {needed / 2**30:.0f} GB of memory, and this machine has {there / 2**30:.0f} GB; use dtype "
            "fp16 or bf16, or a smaller model"
        )


def _too_large(path: Path, what: str, count: int, widest: int) -> ModelError:
    return ModelError(
        f"{path} describes a larger network ({what}) than its weights are of ({count} tensors, none wider than "
        f"{widest}); get the model again"
    )


def _in(value: Any, low: float, high: float) -> bool:
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
