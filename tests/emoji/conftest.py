"""A toy package of emoji, made here: no network, no cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfumato.emoji.training.data import PACKAGES

SQUARE = '<path fill="#ff0000" d="M0 0h{half}v{size}H0z"/><path fill="#0000ff" d="M{half} 0h{half}v{size}H{half}z"/>'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which every style draws concept 1F000 as a square: its left half red, its right half blue."""
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    for style, (package, version, _) in PACKAGES.items():
        folder = tmp_path / "emoji" / f"{package.removeprefix('@').replace('/', '-')}-{version}"
        folder.mkdir(parents=True)
        icons = {"width": 32, "height": 32, "icons": {"square": {"body": SQUARE.format(half=16, size=32)}}}
        (folder / "icons.json").write_text(json.dumps(icons))
        (folder / "chars.json").write_text(json.dumps({} if style == "glossy" else {"1f000": "square"}))
    return tmp_path
