"""EmojiEdit: its cases are fixed, and what is measured of a result says what it claims."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import emoji_quality
from sfumato.bench.benchmark import Configuration
from sfumato.bench.editing import HIGHEST_PSNR, changed_region
from sfumato.bench.emoji_edit import EmojiEdit, Judge, redraw_ratio, verdicts
from sfumato.bench.registry import make_benchmark
from sfumato.bench.runner import run
from sfumato.bench.scenes import emoji_edits
from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_edits import KINDS, SceneEdit, draw_edits
from sfumato.emoji.scene_judge import SceneJudge, Seen, SeenThing
from sfumato.emoji.scenes import Scene
from sfumato.errors import UsageError
from sfumato.images import to_images
from sfumato.metrics.distance import PixelDistance
from tests.bench.emoji import load_emoji
from tests.emoji.toy_world import toy_atlas, write_toy_atlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return toy_atlas(tmp_path_factory.mktemp("atlas"))


@pytest.fixture(scope="module")
def judge(atlas: Atlas) -> Judge:
    judge = Judge.__new__(Judge)  # its networks would come from a model's folder
    judge.judge, judge.distance = SceneJudge(atlas.world).eval(), PixelDistance()
    return judge


def exactly(scene: Scene) -> Seen:
    """What a judge without fault says of a scene."""
    things = tuple(SeenThing(t.concept, t.tint, t.x, t.y, t.size**2) for t in scene.things)
    return Seen(things, scene.style, scene.background.colour, scene.background.pattern, scene.background.amount)


def drawn(atlas: Atlas, kind: str) -> SceneEdit:
    return draw_edits(atlas.world, 0, 1, [kind])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_right_and_keeps_everything(kind: str, atlas: Atlas, judge: Judge) -> None:
    edit = drawn(atlas, kind)
    pixels, masks = render([edit.source, edit.target], atlas)
    source, truth = to_images(pixels)
    figures = judge.figures(edit, source, truth, truth, masks[0])
    if edit.exact:
        assert (figures["target_distance"], figures["inside_distance"]) == (0, 0)
        assert figures["target_psnr"] == HIGHEST_PSNR
    else:
        assert figures["target_distance"] is None
    assert figures["kept_psnr"] in (HIGHEST_PSNR, None)
    assert all(value in (1.0, None) for value in verdicts(exactly(edit.target), edit).values())


def test_the_source_has_not_swapped_its_thing(atlas: Atlas, judge: Judge) -> None:
    edit = drawn(atlas, "swap-near")
    pixels, masks = render([edit.source, edit.target], atlas)
    source, truth = to_images(pixels)
    figures = judge.figures(edit, source, truth, source, masks[0])
    assert figures["kept_psnr"] == HIGHEST_PSNR
    assert figures["target_distance"] > 0
    assert figures["inside_distance"] == pytest.approx(figures["target_distance"])  # they differ nowhere else
    said = verdicts(exactly(edit.source), edit)
    assert (said["things_right"], said["places_right"], said["pattern_right"]) == (0, 0.5, 1)


def test_noise_outside_the_edit_is_no_fault_inside(atlas: Atlas, judge: Judge) -> None:
    edit = drawn(atlas, "recolour")
    pixels, masks = render([edit.source, edit.target], atlas)
    source, truth = to_images(pixels)
    spoilt = np.asarray(truth).copy()
    outside = ~changed_region(np.asarray(source), np.asarray(truth))
    spoilt[outside] = spoilt[outside] // 2
    figures = judge.figures(edit, source, truth, Image.fromarray(spoilt), masks[0])
    assert figures["inside_distance"] == 0
    assert figures["target_distance"] > 0
    assert figures["kept_psnr"] < 20


def test_a_relation_is_judged_by_the_centres(atlas: Atlas) -> None:
    edit = drawn(atlas, "relation")
    assert not edit.exact
    assert edit.source.relation != edit.target.relation
    assert edit.target.relation in edit.target_prompt
    assert verdicts(exactly(edit.target), edit)["places_right"] == 1
    assert verdicts(exactly(edit.source), edit)["places_right"] == 0
    lone = replace(exactly(edit.target), things=exactly(edit.target).things[:1])
    assert verdicts(lone, edit)["places_right"] == 0


def test_an_added_thing_may_stand_anywhere_but_the_other_stays(atlas: Atlas) -> None:
    edit = drawn(atlas, "add")
    first, second = exactly(edit.target).things
    elsewhere = replace(exactly(edit.target), things=(first, replace(second, x=0.1, y=0.9)))
    assert verdicts(elsewhere, edit)["places_right"] == 1
    moved = replace(exactly(edit.target), things=(replace(first, x=first.x + 0.3), second))
    assert verdicts(moved, edit)["places_right"] == 0
    assert verdicts(exactly(edit.source), edit)["things_right"] == 0


def test_drawing_anew_is_the_measure_of_an_edit() -> None:
    rows = [
        {"status": "done", "kind": kind, "configuration": name, "figures": {"target_distance": distance}}
        for kind in ("swap-near", "background")
        for name, distance in (("drawn-anew", 0.4), ("ddib", 0.3), ("ledits", 0.1), ("unedited", 0.01))
    ]
    assert redraw_ratio(rows) == ("ledits", pytest.approx(0.25))
    with pytest.raises(ValueError, match="drawn-anew"):
        redraw_ratio(rows[1:2])


def test_two_hundred_cases_of_fourteen_kinds(atlas: Atlas) -> None:
    cases = EmojiEdit().cases()
    counts = Counter(case.kind for case in cases)
    assert counts == {kind: 10 if kind in ("add", "relation") else 15 for kind in KINDS}
    assert len({case.name for case in cases}) == len(cases) == 200
    assert cases == EmojiEdit().cases()
    assert emoji_edits(atlas.world, seed=1) != emoji_edits(atlas.world)


def test_the_references_need_no_model(tmp_path: Path, judge: Judge) -> None:
    path = write_toy_atlas(tmp_path / "toy.png")
    benchmark = make_benchmark("emoji-edit", texts={"atlas": str(path), "judges": str(tmp_path)})
    assert isinstance(benchmark, EmojiEdit)
    cases = benchmark.cases()
    with pytest.raises(UsageError, match=r"no judge\.safetensors in"):
        benchmark.prepare(None)  # type: ignore[arg-type]
    benchmark.__dict__["_judge"] = judge
    outcome = benchmark.attempt(None, cases[0], Configuration("unedited"))  # type: ignore[arg-type]
    assert set(outcome.figures) <= {measure.name for measure in benchmark.measures}
    assert outcome.pictures["result"] == outcome.pictures["source"]


def test_missing_drawings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no drawings of scenes at"):
        EmojiEdit(atlas=str(tmp_path / "none.png")).cases()


def test_finds_what_the_exact_edit_leaves() -> None:
    source = np.full((16, 16, 3), 100, np.uint8)
    truth = source.copy()
    truth[4, 4] = 200
    changed = changed_region(source, truth)
    assert changed.sum() == 25
    assert changed[2:7, 2:7].all()
    assert not changed_region(source, source).any()


def test_references_bound_every_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.bench.emoji_edit.emoji_edits", lambda world: emoji_edits(world, per_kind=1))
    benchmark = EmojiEdit(steps=2)
    rows = run(benchmark, benchmark.configurations(["unedited", "autoencoder"], []), tmp_path / "bounds", load_emoji)
    assert {row["status"] for row in rows} == {"done"}
    others = benchmark.configurations(["drawn-anew", "sdedit"], [])
    anew, edited = run(benchmark, others, tmp_path / "edits", load_emoji, limit=1)
    assert (anew["status"], edited["status"]) == ("done", "done")
    found = {(row["kind"], row["configuration"]): row["figures"] for row in rows}
    assert found["none", "unedited"]["target_distance"] == pytest.approx(0, abs=1e-6)
    assert found["background", "unedited"]["colour_right"] == 0
    for kind in KINDS:
        assert found[kind, "autoencoder"]["target_distance"] in (None, pytest.approx(0, abs=0.1))
        assert found[kind, "unedited"]["kept_psnr"] in (50.0, None)
    assert edited["figures"]["evaluations"] > 0


def test_methods_meet_the_inversions_that_serve_them() -> None:
    benchmark = EmojiEdit()
    named = [one.name for one in benchmark.configurations(["prompt-to-prompt", "sdedit"], ["ddim", "null-text"])]
    assert named == ["prompt-to-prompt/ddim", "prompt-to-prompt/null-text", "sdedit"]
    every = [one.name for one in benchmark.configurations([], [])]
    assert every[:3] == ["unedited", "autoencoder", "drawn-anew"]
    assert not any(name == "auto" for name in every)
    with pytest.raises(UsageError, match="did you mean 'sdedit'"):
        benchmark.configurations(["sdeditt"], [])
    with pytest.raises(UsageError, match="none of cycle-diffusion takes"):
        benchmark.configurations(["cycle-diffusion"], ["ddim"])


def test_the_model_card_reads_its_edits_from_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Edits of the kinds that drawing anew is held against; the others do not count."""
    distances = {"drawn-anew": 0.4, "prompt-to-prompt": 0.1, "ddib": 0.2}
    rows = [
        {
            "status": "done",
            "kind": kind,
            "case": f"{kind}-1",
            "configuration": name,
            "figures": {"target_distance": distance, "inside_distance": None, "kept_psnr": 30.0},
        }
        for kind, factor in (("swap-near", 1), ("recolour", 1), ("style", 100))
        for name, distance in ((name, factor * value) for name, value in distances.items())
    ]
    monkeypatch.setattr(emoji_quality, "read_rows", lambda folder: rows)
    figures = emoji_quality.measure_edits(tmp_path)
    assert figures["redraw_ratio"] == pytest.approx(0.25)
    assert (figures["best_method"], figures["edits"]) == ("prompt-to-prompt", 2)
    assert figures["distance"] == pytest.approx(distances)
    assert figures["kept_psnr"]["ddib"] == 30.0
    assert figures["inside_distance"] == {}
