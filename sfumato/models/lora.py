"""LoRA files: which can be merged, and the scale of one that peft saved by itself.

peft leaves a LoRA's scale out of the file: it is in `adapter_config.json` beside it, which therefore counts as content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sfumato.errors import ModelError
from sfumato.models.files import parse_json, read_bytes, read_header
from sfumato.models.identify import is_lora, lora_kind, refuse_foreign

PEFT: Final = "base_model.model."
_CONFIG: Final = "adapter_config.json"
_MOST: Final = 1e6


def check_lora(path: Path) -> None:
    """Refuses a file that is no LoRA, or of a kind that cannot be merged.

    Raises:
        ModelError: Says what it is.
    """
    header = read_header(path)
    header.check_floats()
    if not is_lora(header):
        try:
            refuse_foreign(header)
        except ModelError as error:
            raise ModelError(f"no LoRA: {error}") from None
        raise ModelError(f"{path} is a whole model, not a LoRA; give it as the model")
    kind = lora_kind(header)
    if kind != "LoRA":
        raise ModelError(
            f"{path} is a {kind}, which is not supported; merge it into its model with the tool that made it, or "
            "convert it to a plain LoRA"
        )
    if len(lora_files(path)) > 1:
        peft_scale(path)


def lora_files(path: Path) -> list[Path]:
    """The files that a LoRA consists of.

    Raises:
        ModelError: It cannot be read.
    """
    from_peft = any(key.startswith(PEFT) for key in read_header(path).shapes)
    return [path, path.with_name(_CONFIG)] if from_peft else [path]


def peft_scale(path: Path) -> float:
    """alpha / r of a LoRA that peft saved.

    Raises:
        ModelError: The file that says it is missing, or says something that is not supported.
    """
    beside = path.with_name(_CONFIG)
    if not beside.exists():
        raise ModelError(
            f"{path} was saved by peft alone, and its scale is in {_CONFIG}, which is not beside it; get that file, too"
        )
    config = parse_json(beside, read_bytes(beside))
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    odd = [name for name in ("rank_pattern", "alpha_pattern", "use_dora", "lora_bias") if config.get(name)]
    if odd:
        raise ModelError(f"{beside} says {odd[0]}, which is not supported; save the LoRA with diffusers, or merge it")
    for key, value in (("r", rank), ("lora_alpha", alpha)):
        if type(value) not in (int, float) or not 0 < value < _MOST:
            raise ModelError(f"{beside}: {key} must be a positive number, got {value!r:.100}")
    return float(alpha / rank**0.5 if config.get("use_rslora") else alpha / rank)
