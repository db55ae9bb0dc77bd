"""Fetching and rendering, on a toy package made here: no network, no cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfumato.emoji.training import data
from sfumato.emoji.training.data import DataError, Renderer, choose_concepts, composite, fetch
from sfumato.emoji.world import STYLES, Concept, Scene


def test_a_scene_is_rendered_exactly(cache: Path) -> None:
    pytest.importorskip("resvg_py")
    renderer = Renderer([Concept("square", "1F000", "symbols")])
    for style in STYLES:
        scene = Scene("square", style, "green", position=(0.5, 0.25), scale=0.5)
        pixels = np.asarray(renderer.render(scene))
        assert pixels.shape == (64, 64, 3)
        assert (pixels[:32, 16:32] == (255, 0, 0)).all()
        assert (pixels[:32, 32:48] == (0, 0, 255)).all()
        assert (pixels[32:] == scene.colour).all()
        assert (pixels[:, :16] == scene.colour).all()


def test_flip_mirrors_the_drawing_and_rendering_is_deterministic(cache: Path) -> None:
    pytest.importorskip("resvg_py")
    renderer = Renderer([Concept("square", "1F000", "symbols")])
    plain = np.asarray(renderer.render(Scene("square", "flat", "white")))
    mirrored = np.asarray(renderer.render(Scene("square", "flat", "white", flip=True)))
    assert (mirrored == plain[:, ::-1]).all()
    assert (plain == np.asarray(renderer.render(Scene("square", "flat", "white")))).all()


def test_composite_blends_by_alpha() -> None:
    sprite = np.zeros((1, 1, 2, 4), np.uint8)
    sprite[0, 0, 0] = (200, 100, 0, 255)
    assert composite(sprite, [(10, 20, 30)]).tolist() == [[[[200, 100, 0], [10, 20, 30]]]]


def test_missing_npm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="npm is not installed"):
        fetch("@iconify-json/noto")


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
        fetch("@iconify-json/noto")
    assert not [path for path in (tmp_path / "cache" / "emoji").iterdir() if "noto" in path.name]


def test_concepts_are_chosen_by_group_and_by_name() -> None:
    cat, pie, star = Concept("cat", "1", "animals"), Concept("pie", "2", "food"), Concept("star", "3", "places")
    assert choose_concepts([cat, pie, star], None, []) == [cat, pie, star]
    assert choose_concepts([cat, pie, star], ["food"], ["cat"]) == [cat, pie]
    with pytest.raises(DataError, match="no group 'foods'; there are food"):
        choose_concepts([cat, pie, star], ["foods"], [])
    with pytest.raises(DataError, match="no concept 'stars'; there are star"):
        choose_concepts([cat, pie, star], ["food"], ["stars"])
