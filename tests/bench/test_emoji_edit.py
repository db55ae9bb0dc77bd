"""The cases are fixed, their shipped images are what the scenes say, and the figures mean what they claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.bench.editing import changed_region
from sfumato.bench.emoji_edit import EmojiEdit, border_colour, delta_e
from sfumato.bench.emoji_scenes import KINDS, draw_cases, read_atlas
from sfumato.bench.runner import run
from sfumato.errors import UsageError
from tests.bench.emoji import load_emoji


def test_two_hundred_cases_of_ten_kinds() -> None:
    cases = draw_cases()
    assert Counter(case.kind for case in cases) == dict.fromkeys(KINDS, 20)
    assert sum(not case.seen for case in cases) == 30
    assert cases == draw_cases()
    assert cases != draw_cases(seed=1)
    names = [case.name for case in EmojiEdit().cases()]
    assert len(set(names)) == 200


def test_every_kind_changes_what_it_says() -> None:
    for case in draw_cases():
        source, target = case.source, case.target
        changed = {
            name for name in ("concept", "style", "background") if getattr(source, name) != getattr(target, name)
        }
        placed = (source.position, source.scale) != (target.position, target.scale)
        match case.kind:
            case "concept-near" | "concept-far":
                assert (changed, placed) == ({"concept"}, False)
            case "style" | "background":
                assert (changed, placed) == ({case.kind}, False)
            case "two-edits":
                assert len(changed) == 2
            case "size" | "position":
                assert (changed, placed) == (set(), True)
            case "attribute":
                assert placed != (changed == {"background"})
            case "re-weight":
                assert source.background_rgb is not None
                assert dict(case.weights).keys() <= set(case.source_prompt.split())
            case "none":
                assert source == target
        assert (case.source_prompt == case.target_prompt) == (case.kind in {"re-weight", "none"})


def test_the_shipped_pictures_are_the_scenes() -> None:
    pytest.importorskip("resvg_py")
    from sfumato.emoji.training.data import DataError, Renderer

    try:
        renderer = Renderer()
    except DataError as error:
        pytest.skip(str(error))
    cases = draw_cases()
    for place in range(0, 200, 67):
        for image, scene in zip(read_atlas(place), (cases[place].source, cases[place].target), strict=True):
            rendered = np.asarray(renderer.render(scene, size=64).convert("RGB"), dtype=int)
            assert np.abs(np.asarray(image, dtype=int) - rendered).max() <= 2


def test_finds_what_the_exact_edit_leaves() -> None:
    source = np.full((16, 16, 3), 100, np.uint8)
    truth = source.copy()
    truth[4, 4] = 200
    changed = changed_region(source, truth)
    assert changed.sum() == 25
    assert changed[2:7, 2:7].all()
    assert not changed_region(source, source).any()


def test_colours_are_compared_as_people_see_them() -> None:
    color = pytest.importorskip("skimage.color")
    first, second = np.array([206, 62, 66]), np.array([112, 188, 104])
    expected = np.linalg.norm(color.rgb2lab(first / 255) - color.rgb2lab(second / 255))
    assert delta_e(first, second) == pytest.approx(expected, abs=0.01)
    framed = Image.new("RGB", (16, 16), (10, 20, 30))
    framed.paste((200, 0, 0), (4, 4, 12, 12))
    assert border_colour(np.asarray(framed)).tolist() == [10, 20, 30]


def test_references_bound_every_edit(tmp_path: Path) -> None:
    benchmark = EmojiEdit(steps=2)
    configurations = benchmark.configurations(["unedited", "autoencoder", "sdedit"], [])
    rows = run(benchmark, configurations, tmp_path, load_emoji, limit=10)
    assert {row["status"] for row in rows} == {"done", "not applicable"}
    by_name = {(row["kind"], row["configuration"]): row["figures"] for row in rows}
    assert by_name["none", "unedited"]["target_distance"] == pytest.approx(0, abs=1e-6)
    assert by_name["background", "unedited"]["background_right"] == 0
    for kind in KINDS:
        assert by_name[kind, "autoencoder"]["target_distance"] < 0.1
        assert by_name[kind, "unedited"]["kept_psnr"] in (50.0, None)
    assert by_name["style", "sdedit"]["evaluations"] > 0


def test_methods_meet_the_inversions_that_serve_them() -> None:
    benchmark = EmojiEdit()
    named = [one.name for one in benchmark.configurations(["prompt-to-prompt", "sdedit"], ["ddim", "null-text"])]
    assert named == ["prompt-to-prompt/ddim", "prompt-to-prompt/null-text", "sdedit"]
    every = [one.name for one in benchmark.configurations([], [])]
    assert every[:2] == ["unedited", "autoencoder"]
    assert not any(name == "auto" for name in every)
    with pytest.raises(UsageError, match="did you mean 'sdedit'"):
        benchmark.configurations(["sdeditt"], [])
    with pytest.raises(UsageError, match="none of cycle-diffusion takes"):
        benchmark.configurations(["cycle-diffusion"], ["ddim"])
