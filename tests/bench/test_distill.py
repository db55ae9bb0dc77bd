"""The benchmark of distillation: its scenes ask for one edit, its judge says what it claims, one run does it all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.bench import distill
from sfumato.bench.benchmark import Configuration
from sfumato.bench.distill import (
    CONFIGURATIONS,
    OF_TRUTH,
    STUDENT,
    TEACHER,
    TEST_SEED,
    TRAINING_SEED,
    UNEDITED,
    Distill,
    _told,
)
from sfumato.bench.distill_judge import DistillJudge, edit_seen
from sfumato.bench.distill_scenes import EDITS, SWAP, TINTS, scene_edits
from sfumato.bench.editing import HIGHEST_PSNR
from sfumato.bench.registry import make_benchmark
from sfumato.bench.runner import run
from sfumato.distillation.distilled import Card, load_distilled
from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_judge import SceneJudge, Seen, SeenThing
from sfumato.emoji.scenes import Scene, World, held_out
from sfumato.errors import UsageError
from sfumato.images import to_images
from sfumato.metrics.distance import PixelDistance
from sfumato.watch import Watch
from tests.distillation.test_distilled import made
from tests.emoji.toy_world import toy_atlas, write_toy_atlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return toy_atlas(tmp_path_factory.mktemp("atlas"))


def exactly(scene: Scene) -> Seen:
    """What a judge without fault says of a scene."""
    things = tuple(SeenThing(t.concept, t.tint, t.x, t.y, t.size**2) for t in scene.things)
    return Seen(things, scene.style, scene.background.colour, scene.background.pattern, scene.background.amount)


@pytest.mark.parametrize("kind", EDITS)
def test_scenes_of_an_edit_ask_for_the_same_and_none_is_trained_on(kind: str, atlas: Atlas) -> None:
    edits = scene_edits(atlas.world, kind, 60, TEST_SEED)
    assert edits == scene_edits(atlas.world, kind, 60, TEST_SEED)
    trained_on = {edit.source for edit in scene_edits(atlas.world, kind, 200, TRAINING_SEED)}
    assert not trained_on & {edit.source for edit in edits}
    changes = set()
    for edit in edits:
        assert edit.kind == kind
        assert edit.source not in held_out(atlas.world)
        assert edit.target not in held_out(atlas.world)
        assert edit.source.background == edit.target.background
        assert edit.source_prompt != edit.target_prompt
        assert edit_seen(exactly(edit.target), edit)
        assert not edit_seen(exactly(edit.source), edit)
        if kind == "style":
            changes.add((edit.source.style, edit.target.style))
        else:
            (index,) = edit.things
            before, after = edit.source.things[index], edit.target.things[index]
            assert (before.x, before.y, before.size) == (after.x, after.y, after.size)
            changes.add((before.concept, before.tint, after.concept, after.tint))
    assert len(changes) == 1
    if kind == "recolour":
        assert {(before, after) for _, before, _, after in changes} == {TINTS}


def test_a_world_without_an_edit_is_said(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="no edits of kind 'style'"):
        scene_edits(World(atlas.world.concepts, ("noto",)), "style", 2, 0)


@pytest.fixture
def judged(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> DistillJudge:
    """A judge that knows nothing, as the networks of a model's folder are not there."""
    judge = DistillJudge.__new__(DistillJudge)
    judge.judge, judge.distance = SceneJudge(atlas.world).eval(), PixelDistance()  # type: ignore[misc]
    monkeypatch.setattr(Distill, "_judge", judge)
    return judge


def test_the_answer_is_right_and_the_source_keeps_everything(atlas: Atlas, judged: DistillJudge) -> None:
    (edit,) = scene_edits(atlas.world, "swap", 1, 0)
    source, truth = to_images(render([edit.source, edit.target], atlas)[0])
    right, unedited = (judged.figures(edit, source, truth, result) for result in (truth, source))
    assert right["target_distance"] == 0
    assert right["target_psnr"] == right["kept_psnr"] == unedited["kept_psnr"] == HIGHEST_PSNR
    assert right["kept_within"] == unedited["kept_within"] == 1
    assert (unedited["target_distance"] or 0) > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_run_trains_and_measures_and_can_be_continued(
    toy_model: Any, judged: DistillJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "LONG", 10)  # steps of a teacher that is timed
    monkeypatch.setattr(distill, "BATCH", 4)
    given = {
        "teacher": "sdedit", "edits": "swap", "pairs": "34", "per_edit": "2", "training_steps": "2", "width": "8",
        "least_psnr": "0", "unchanged": "0", "atlas": str(write_toy_atlas(tmp_path / "toy.png")),
    }  # fmt: skip
    benchmark = make_benchmark("distill", texts=given, steps=2, seed=0)
    rows = run(benchmark, benchmark.configurations([], []), tmp_path / "run", lambda: toy_model)
    assert all(row["status"] == "done" for row in rows), rows
    by_name = {(row["case"], row["configuration"]): row["figures"] for row in rows}
    assert {name for _, name in by_name} == {*CONFIGURATIONS}
    assert by_name["swap-000", STUDENT]["milliseconds_16"] > 0
    assert by_name["swap-000", STUDENT]["times_faster"] > 1
    assert by_name["swap-000", TEACHER]["milliseconds_16"] > 0
    assert "times_faster" not in by_name["swap-001", STUDENT]
    assert by_name["swap-001", UNEDITED]["kept_within"] == 1
    bars = {bar.title: bar for bar in benchmark.bars(rows, tmp_path / "run")}  # type: ignore[attr-defined]
    assert bars["ms an image, on one thread"].value == pytest.approx(
        (by_name["swap-000", STUDENT]["milliseconds"] + by_name["swap-001", STUDENT]["milliseconds"]) / 2
    )
    assert bars["MB of the file"].met
    assert bars["minutes for 400 pairs and training, on 2 cores"].met is None  # they are 34
    cards = [load_distilled(tmp_path / "run" / "students" / f"swap{end}.safetensors").card for end in ("", "-of-truth")]
    assert [card.method for card in cards] == ["sdedit", "exact answers"]
    assert cards[0].pairs_kept == cards[1].pairs_kept == 34
    assert cards[0].steps == cards[1].steps == 2

    evaluations = toy_model.evaluations
    again = make_benchmark("distill", texts={**given, "per_edit": "3"}, steps=2, seed=0)
    more = run(again, again.configurations([STUDENT, OF_TRUTH], []), tmp_path / "run", lambda: toy_model)
    assert len(more) == len(rows) + 2
    assert toy_model.evaluations == evaluations  # nothing is trained or edited again

    own = {**given, "teacher": "ddib", "student": str(tmp_path / "run" / "students" / "swap.safetensors")}
    benchmark = make_benchmark("distill", texts=own, seed=0)
    found = run(benchmark, benchmark.configurations([], []), tmp_path / "own", lambda: toy_model)
    assert {row["configuration"] for row in found} == {TEACHER, STUDENT, UNEDITED}
    assert not (tmp_path / "own" / "students").exists()
    figures = {(row["case"], row["configuration"]): row["figures"]["target_distance"] for row in found}
    for case in ("swap-000", "swap-001"):
        for name in (STUDENT, TEACHER):  # the card names the teacher
            assert figures[case, name] == by_name[case, name]["target_distance"]
    with pytest.raises(UsageError, match="measured on one edit"):
        make_benchmark("distill", texts={**own, "edits": "swap,style"})
    assert "; it is measured on the edit swap" in benchmark.notes[0]
    assert benchmark.settings["taught_by"]["method"] == "sdedit"
    with pytest.raises(UsageError, match="took steps=2"):
        make_benchmark("distill", texts=own, steps=3, seed=0)
    monkeypatch.setattr(toy_model, "revision", "another")
    with pytest.raises(UsageError, match=r"learned from revision .* and this is revision another"):
        benchmark.make(toy_model, tmp_path / "own", Watch())  # type: ignore[attr-defined]


def test_the_swap_of_a_distilled_edit_is_the_one_that_its_prompts_name(atlas: Atlas) -> None:
    first, second, *_ = (concept.name for concept in atlas.world.concepts)
    card = replace(
        a_card(), source_prompt=f"a {second} on a red background", target_prompt=f"a {first} on a red background"
    )
    assert _told(card, atlas.world) == (second, first)
    assert _told(replace(card, source_prompt="a house"), atlas.world) == SWAP
    (edit,) = scene_edits(atlas.world, "swap", 1, 0, swap=(second, first))
    assert (f" {second}" in edit.source_prompt, f" {first}" in edit.target_prompt) == (True, True)


def a_row(kind: str, number: int, configuration: str, **figures: float) -> dict[str, Any]:
    case = f"{kind}-{number:03d}"
    return {"case": case, "kind": kind, "configuration": configuration, "status": "done", "figures": figures}


def test_what_is_asked_for_is_held_against_the_teacher_on_shared_cases(tmp_path: Path) -> None:
    (tmp_path / "students").mkdir()
    distilled = made()
    rows = []
    for kind, minutes, cores in (("swap", 20.0, 2), ("style", 26.0, 2), ("recolour", 20.0, 16)):
        distilled.card = replace(distilled.card, pairs_made=400, figures={"minutes": minutes, "cores": cores})
        distilled.save(tmp_path / "students" / f"{kind}.safetensors")
        for number in range(10):
            rows.append(a_row(kind, number, TEACHER, target_distance=0.1, edit_seen=1.0))
            more = {"times_faster": 300.0} if number == 0 else {}
            own = {"target_distance": 0.12, "edit_seen": float(number > 0), "milliseconds": 4.0, **more}
            rows.append(a_row(kind, number, STUDENT, **own))
        rows.append(a_row(kind, 10, TEACHER, target_distance=0.9, edit_seen=0.0))  # the student has not done it
    rows[1]["figures"]["target_distance"] = 0.4  # of swap
    bars = Distill().bars(rows, tmp_path)
    found = {(bar.kind, bar.title.partition(",")[0]): (bar.value, bar.met) for bar in bars}
    assert len(bars) == 3 * 6 + 1
    minutes = "minutes for 400 pairs and training"
    assert found["swap", minutes] == (20.0, True)
    assert found["style", minutes] == (26.0, False)
    assert found["recolour", minutes] == (None, None)  # not on two cores
    assert found["swap", "distance to the truth"] == (pytest.approx(0.048), False)
    assert found["style", "distance to the truth"] == (pytest.approx(0.02), True)
    assert found["swap", "edit seen by the judge"] == (pytest.approx(0.9), True)
    assert found["swap", "ms an image"] == (4.0, True)
    assert found["swap", "times faster than an edit of 50 steps"] == (300.0, True)
    assert found["swap", "MB of the file"][1]
    assert found["", "different edits"] == (3, True)
    assert {bar.met for bar in Distill().bars([], tmp_path / "none")} == {None, False}


def a_card() -> Card:
    return Card("", "", "toy", "r1", "ddib", (16, 16), 50, 40, 4, "0", 30)


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'swap'"):
        make_benchmark("distill", texts={"edits": "swapp"})
    with pytest.raises(UsageError, match="sdedit"):
        make_benchmark("distill", texts={"teacher": "sdeddit"})
    with pytest.raises(UsageError, match="multiple of 8"):
        make_benchmark("distill", texts={"width": "12"})
    with pytest.raises(UsageError, match="no drawings of scenes"):
        make_benchmark("distill", texts={"atlas": str(tmp_path / "none.png")}).cases()
    with pytest.raises(UsageError, match="student"):
        Distill().configurations(["studnet"], [])
    with pytest.raises(UsageError, match="no --inversions"):
        Distill().configurations([], ["ddim"])
    with pytest.raises(UsageError, match=r"no judge\.safetensors"):
        DistillJudge(tmp_path)
    assert Distill().configurations([TEACHER], []) == [Configuration(TEACHER)]
