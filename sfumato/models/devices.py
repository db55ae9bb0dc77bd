"""Where a model computes, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfumato import checks
from sfumato.errors import UsageError

if TYPE_CHECKING:
    import torch

_DTYPES = {
    **dict.fromkeys(("fp16", "float16", "half"), "float16"),
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp32", "float32"), "float32"),
    **dict.fromkeys(("fp64", "float64"), "float64"),
}


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Gives the device asked for, or the best one: CUDA, then MPS, then the processor.

    Raises:
        UsageError: The device is unknown or not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, is_there in there.items() if is_there]
    if device is None:
        return torch.device(available[0])
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise checks.refuse("device", f"one of {', '.join(there)}", device) from error
    if chosen.type not in there:
        raise checks.refuse("device", f"one of {', '.join(there)}", str(device))
    beyond = chosen.type == "cuda" and there["cuda"] and (chosen.index or 0) >= torch.cuda.device_count()
    if not there[chosen.type] or beyond:
        raise UsageError(f"device {str(device)!r} is not available on this machine; available: {', '.join(available)}")
    return chosen


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device | None = None) -> torch.dtype:
    """Gives the dtype asked for, or what suits the device: fp32 on the processor, fp16 elsewhere.

    Raises:
        UsageError: The dtype is unknown, not a float, or not one that the device computes in.
    """
    import torch

    if dtype is None:
        return torch.float32 if device is None or device.type == "cpu" else torch.float16
    known = {key: getattr(torch, value) for key, value in _DTYPES.items()}
    chosen = known.get(dtype.lower().removeprefix("torch."), dtype) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or chosen not in known.values():
        raise checks.refuse("dtype", "one of fp16, bf16, fp32, fp64", dtype)
    if chosen == torch.float64 and device is not None and device.type == "mps":
        raise UsageError("mps does not compute in fp64; use fp32, or device cpu")
    return chosen
