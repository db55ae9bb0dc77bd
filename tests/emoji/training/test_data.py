"""Fetching drawings and writing their atlas, on a toy package made here: no network, no cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scenes import COLOURS, STYLES, Background, Concept, Scene, Thing, World
from sfumato.emoji.training import data
from sfumato.emoji.training.atlas import write_atlas
from sfumato.emoji.training.data import DataError, fetch
from sfumato.images import to_images


def test_an_atlas_holds_every_drawing(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    square = Concept("square", "1F000", "thing")
    write_atlas([square], STYLES, tmp_path / "atlas.png")
    atlas = Atlas(tmp_path / "atlas.png")
    assert atlas.world == World((square,), STYLES)
    scene = Scene((Thing("square", 0.5, 0.25, 0.5),), Background("green"), "glossy")
    (image,) = to_images(render([scene], atlas)[0])
    pixels = np.asarray(image)
    assert (pixels[4:60, 36:60] == (255, 0, 0)).all()
    assert (pixels[4:60, 68:92] == (0, 0, 255)).all()
    assert (pixels[66:] == COLOURS["green"]).all()


def test_a_missing_drawing_is_named(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(DataError, match=r"noto has no drawing of 'ring' \(1F001\)"):
        write_atlas([Concept("ring", "1F001", "thing")], ["noto"], tmp_path / "atlas.png")


def test_missing_npm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="npm is not installed"):
        fetch("noto")


@pytest.mark.parametrize(("script", "message"), [("exit 1", "could not fetch"), ("echo x > a.tgz", "refused")])
def test_a_failed_or_foreign_download_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data.shutil, "which", lambda name: str(npm))
    with pytest.raises(DataError, match=message):
        fetch("noto")
    assert not [path for path in (tmp_path / "cache" / "emoji").iterdir() if "noto" in path.name]
