"""The demo's edits fit the bundled images, and its sheet can be drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.apps import demo
from sfumato.apps.contact_sheet import Cell, Row, Words, changed_words, draw_sheet, heat_colours, heat_overlay
from sfumato.edits.method import METHODS
from tests.apps.conftest import size


def test_edits_fit_the_bundled_pictures() -> None:
    captions = demo.bundled()
    assert len({edit.file for edit in demo.EDITS}) >= 6
    assert len({edit.slug for edit in demo.EDITS}) == len(demo.EDITS)
    for edit in demo.EDITS:
        source, target = edit.prompts(captions[edit.file])
        assert edit.word in target.split()
        METHODS[edit.method].check_options(edit.options)
        assert source != target or edit.options.get("weights")


def test_demo(run: Any, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EDITS", (demo.EDITS[0], demo.EDITS[3]))
    result = run("demo", "-o", "new/pictures", "--model", toy, "--steps", 2, "--device", "cpu")
    folder = Path("new/pictures")
    assert [size(path) for path in sorted(folder.glob("[0-9]-*.png"))] == [(128, 128)] * 2
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 4 * 192
    assert str(folder.resolve() / "sheet.png") in result.stdout
    assert {path.name for path in (folder / "images").iterdir()} == set(demo.bundled())


def test_demo_leaves_no_empty_folder(run: Any, folder: Path) -> None:
    run("demo", "-o", "new/pictures", "--model", "./gone", code=1)
    assert list(folder.iterdir()) == []
    (folder / "file").write_text("")
    assert "cannot make the folder file" in run("demo", "-o", "file", code=1).stderr


def test_changed_words() -> None:
    source, target = "a cat on a blue background", "a small dog on a blue background"
    assert [w.text for w in changed_words(source, target) if w.changed] == ["cat"]
    assert [w.text for w in changed_words(target, source) if w.changed] == ["small", "dog"]
    assert not any(w.changed for w in changed_words(source, source))


def test_heat_goes_from_dark_to_light() -> None:
    luminance = heat_colours(np.linspace(0, 1, 50)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()


def test_heat_overlay_is_hot_where_the_map_is() -> None:
    heat = np.zeros((8, 8))
    heat[:, 4:] = 1.0
    shown = np.asarray(heat_overlay(Image.new("RGB", (96, 64), (90, 90, 90)), heat)).astype(int)
    assert shown.shape == (64, 96, 3)
    assert shown[:, 60:].mean() > shown[:, :36].mean() + 50
    assert (shown[:, :30, 0] <= 90).all()


def test_sheet_holds_the_pictures() -> None:
    red, wide = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (128, 64), (0, 0, 255))
    words = [[Words("a very long prompt " * 12)], [Words("changed", changed=True)]]
    sheet = np.asarray(draw_sheet([Row("one", words, [Cell(red, "caption"), Cell(wide)])], ("first", "second")))
    assert (sheet == (255, 0, 0)).all(-1).sum() == 192 * 192
    assert (sheet == (0, 0, 255)).all(-1).sum() == 192 * 96
    assert (sheet == (190, 30, 70)).all(-1).any()  # emphasis
    with pytest.raises(ValueError, match="every row must have 1 cells"):
        draw_sheet([Row("one", words, [])], ("first",))
