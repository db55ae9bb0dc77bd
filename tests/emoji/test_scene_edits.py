"""Edits with an exact answer: what they change changes, the rest of the scene stays."""

from __future__ import annotations

import pytest
import torch

from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_edits import KINDS, SceneEdit, draw_edits
from sfumato.emoji.scenes import World, held_out, load_concepts
from tests.emoji.toy_world import toy_atlas

WORLD = World(load_concepts()[:24], ("noto", "flat"))


@pytest.fixture(scope="module")
def edits() -> dict[str, list[SceneEdit]]:
    drawn = draw_edits(WORLD, 0, 12)
    return {kind: [edit for edit in drawn if edit.kind == kind] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_told_and_changes_what_it_says(kind: str, edits: dict[str, list[SceneEdit]]) -> None:
    for edit in edits[kind]:
        assert (edit.source == edit.target) == (kind == "none")
        assert (edit.source_prompt == edit.target_prompt) == (kind == "none")
        assert edit.source not in held_out(WORLD)
        assert edit.target not in held_out(WORLD)
        kept = [n for n in range(len(edit.source.things)) if n not in edit.things]
        assert edit.exact == (kind not in ("add", "relation"))
        if kind != "remove":
            for number in kept:
                assert edit.source.things[number] == edit.target.things[number]
            for number in edit.things:
                before, after = edit.source.things[number], edit.target.things[number]
                if kind == "relation":
                    assert (before.size, before.angle) == (after.size, after.angle)
                    continue
                assert (before.x, before.y, before.angle, before.mirror) == (
                    after.x,
                    after.y,
                    after.angle,
                    after.mirror,
                )
        if kind not in ("background", "pattern", "amount", "two-edits"):
            assert edit.source.background == edit.target.background


def test_near_swaps_stay_in_the_kind_and_far_ones_leave_it(edits: dict[str, list[SceneEdit]]) -> None:
    for kind, same in (("swap-near", True), ("swap-far", False)):
        for edit in edits[kind]:
            (index,) = edit.things
            names = [scene.things[index].concept for scene in (edit.source, edit.target)]
            assert (WORLD.concept(names[0]).kind == WORLD.concept(names[1]).kind) == same


def test_more_snow_leaves_the_flakes_that_fell(edits: dict[str, list[SceneEdit]]) -> None:
    for edit in edits["amount"]:
        assert edit.source.background.seed == edit.target.background.seed
        assert edit.source.background.amount_word in edit.source_prompt


def test_draws_of_one_kind_do_not_depend_on_the_others() -> None:
    assert draw_edits(WORLD, 3, 2, ["remove"]) == [e for e in draw_edits(WORLD, 3, 2) if e.kind == "remove"]


def test_a_world_that_is_too_small_for_an_edit_is_refused() -> None:
    with pytest.raises(ValueError, match="a world of 2 concepts leaves no such scene: all are held out"):
        draw_edits(World(load_concepts()[:2]), 0, 1, ["swap-near"])
    animals = World(load_concepts()[:3])
    with pytest.raises(ValueError, match="a world of 3 concepts has no edit of kind 'swap-far'"):
        draw_edits(animals, 0, 1, ["swap-far"])


def test_removing_a_thing_changes_its_pixels_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    atlas: Atlas = toy_atlas(tmp_path_factory.mktemp("atlas"))
    edit = draw_edits(atlas.world, 0, 1, ["remove"])[0]
    images, masks = render([edit.source, edit.target], atlas)
    changed = (images[0] - images[1]).abs().amax(0) > 1e-4
    (index,) = edit.things
    assert changed.any()
    assert not (changed & (masks[0, index] == 0)).any()
    assert torch.equal(images[0, :, 0, 0], images[1, :, 0, 0])
