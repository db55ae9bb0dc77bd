"""Checks of what a metric measures: values of a known range, all finite, nothing converted silently.

A metric of the wrong values still gives a number, which looks right. So bytes are never taken for
floats, nor indices of a palette for colours, nor 0..255 for -1..1; and NaN is an error wherever it comes in, never a
failure counted, never "no background".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OVERSHOOT = 0.001
"""How far a value may pass the range, as a share of its width: rounding in half precision, no more."""
MODES = ("L", "RGB")


def checked_pixels(pixels: Any, name: str = "pixels") -> Tensor:
    """Gives pixels as they are when they are what every metric of tensors takes.

    Args:
        pixels: Floats in [-1, 1], (batch, 3, height, width), one image and one pixel at least.
        name: For the message.

    Raises:
        ValueError: They are no such tensor: another type, shape or range, or NaN.
    """
    if not isinstance(pixels, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(pixels).__name__}")
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel():
        raise ValueError(f"{name} must be (batch, 3, height, width), got {tuple(pixels.shape)}")
    if not pixels.is_floating_point() or pixels.layout != torch.strided or pixels.is_meta:
        raise ValueError(f"{name} must be floats in [-1, 1], got {pixels.dtype}: divide bytes by 127.5 and subtract 1")
    low, high = float(pixels.detach().amin()), float(pixels.detach().amax())
    if not (low >= -1 - 2 * OVERSHOOT and high <= 1 + 2 * OVERSHOOT):  # NaN fails both
        raise ValueError(
            f"{name} must lie in [-1, 1], got values in [{low:g}, {high:g}]: divide values of 0..255 by 127.5 and"
            " subtract 1, clamp what a decoder gives"
        )
    return pixels


def checked_values(values: Any, name: str, *, data_range: float | None = None) -> Tensor:
    """Gives numbers of any shape as a tensor of float64 on the CPU.

    Args:
        values: Tensor, array or numbers; or a PIL image of 8 bits, grey or RGB, (height, width[, 3]).
        name: For the message.
        data_range: Width of the range that values can take; None: none is known, as for a mean squared error.

    Raises:
        ValueError: Not numbers, none at all, NaN or infinite, or wider than the range; bytes or a PIL image with
            another range than 255; a PIL image of another mode.
    """
    is_bytes = False
    if isinstance(values, Image.Image):
        if values.mode not in MODES:
            raise ValueError(
                f"{name} has mode {values.mode!r}, whose values are no colours to compare: convert it to RGB"
            )
        values = np.asarray(values)
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_meta:
            raise ValueError(f"{name} must be a dense tensor with values")
        is_bytes = values.dtype == torch.uint8
        usable = not values.is_complex() and values.dtype != torch.bool
        tensor = values.detach().cpu()
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:  # lists of several lengths
            raise ValueError(f"{name} holds no array of numbers ({error})") from error
        is_bytes, usable = array.dtype == np.uint8, array.dtype.kind in "uif"
        tensor = torch.from_numpy(array.astype(np.float64)) if usable else torch.empty(0)
    if not usable:
        kind = values.dtype if hasattr(values, "dtype") else type(values).__name__
        raise ValueError(f"{name} must hold real numbers, got {kind}: convert images to RGB or to floats first")
    if not tensor.numel():
        raise ValueError(f"{name} holds no values")
    tensor = tensor.double()
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinite values")
    if data_range is not None:
        _check_range(tensor, is_bytes, name, data_range)
    return tensor


def paired_values(image: Any, reference: Any, *, data_range: float | None = None) -> tuple[Tensor, Tensor]:
    """Gives both as `checked_values` does, of one shape.

    Raises:
        ValueError: As `checked_values`; or the shapes differ.
    """
    first = checked_values(image, "image", data_range=data_range)
    second = checked_values(reference, "reference", data_range=data_range)
    if first.shape != second.shape:
        raise ValueError(f"image and reference must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    return first, second


def checked_range(data_range: Any) -> float:
    """Gives the width of a range, or raises a ValueError where it is no positive and finite number."""
    is_number = isinstance(data_range, int | float | np.integer | np.floating) and not isinstance(data_range, bool)
    if not (is_number and 0.0 < data_range <= float(np.finfo(np.float64).max)):
        raise ValueError(f"data_range must be positive and finite, got {data_range!r}")
    return float(data_range)


def checked_finite(values: Tensor, name: str) -> Tensor:
    """Gives values as they are, or raises a ValueError where one is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} hold NaN or infinity")
    return values


def _check_range(tensor: Tensor, is_bytes: bool, name: str, data_range: float) -> None:
    if is_bytes and data_range != 255:
        raise ValueError(f"{name} holds bytes, whose data_range is 255, got data_range {data_range:g}")
    low, high = float(tensor.min()), float(tensor.max())
    if high - low > data_range * (1 + OVERSHOOT):
        raise ValueError(
            f"{name} has values in [{low:g}, {high:g}], wider than data_range {data_range:g}: 255 for bytes, 2 for"
            " pixels in [-1, 1], 1 for [0, 1]"
        )
