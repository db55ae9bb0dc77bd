"""Hostile files of distilled edits, and hostile movies to apply one to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sfumato.distillation.distilled import KIND, Distilled
from sfumato.tensorfile import load_tensors
from tests.hostile.files import TYPES, sealed
from tests.hostile.images import Files

KIND_NAME = KIND.name


def hostile_edits(good: Distilled, place: Path) -> Files:
    """Every entry of the card and of the architecture in every type; tensors that are not those of the network."""
    tensors, fields = load_tensors(good.save(place / "good.safetensors"), KIND)
    for part in ("card", "arch"):
        for name in fields[part]:
            for number, value in enumerate(TYPES):
                yield f"{part}-{name}-{number:02d}", _sealed(tensors, {**fields, part: {**fields[part], name: value}})
    for number, value in enumerate(TYPES):
        for name in ("card", "arch", "limit"):
            yield f"{name}-{number:02d}", _sealed(tensors, {**fields, name: value})
    huge = {"name": "gated", "width": 256, "levels": 5, "block": 8}
    yield "arch-huge", _sealed(tensors, {**fields, "arch": huge})
    yield "arch-one-step", _sealed(tensors, {**fields, "arch": {"name": "one-step", "rank": 8, "autoencoder_rank": 4}})
    name = "student/stem.weight"
    for words, change in {
        "nan": tensors[name] * float("nan"), "flat": tensors[name].flatten(), "whole": tensors[name].to(torch.int8),
        "empty": torch.zeros(0), "complex": tensors[name].to(torch.complex64),
    }.items():  # fmt: skip
        yield f"tensor-{words}", _sealed({**tensors, name: change}, fields)
    for words, change in {"nan": float("nan"), "long": 0.0}.items():
        domain = torch.full((10_000 if words == "long" else 16,), change)
        yield f"domain-{words}", _sealed({**tensors, "domain/mean": domain}, fields)


def hostile_movies(good: bytes, ending: str) -> Files:
    """A movie that was cut off, with bytes changed, and files of other kinds under its name."""
    for share in (0.05, 0.3, 0.6, 0.95):
        yield f"cut-{share}{ending}", good[: int(share * len(good))]
    for place in range(1, 8):
        changed = bytearray(good)
        for byte in range(place * len(good) // 9, place * len(good) // 9 + 24):
            changed[byte] ^= 0xFF
        yield f"changed-{place}{ending}", bytes(changed)
    yield f"list{ending}", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\nhttp://127.0.0.1:9/x.ts\n"
    yield f"concat{ending}", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield f"zeros{ending}", bytes(5_000)


def _sealed(tensors: dict[str, Any], fields: Any) -> bytes:
    return sealed(KIND_NAME, {name: value.contiguous() for name, value in tensors.items()}, fields)
