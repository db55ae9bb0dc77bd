"""The world of scenes: captions, relations, what is held out; and the renderer, the exact answer of every edit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.emoji.render import Atlas, flake_places, recoloured, render, render_backgrounds
from sfumato.emoji.scene_captions import Telling, caption, caption_words, joined, sample_telling
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import (
    COLOURS,
    MOST_FLAKES,
    PATTERNS,
    Background,
    Scene,
    Thing,
    World,
    held_out,
    load_concepts,
    moved,
)
from tests.emoji.toy_world import toy_atlas

WORLD = World(load_concepts(), ("noto", "flat"))
FOX, APPLE = Thing("fox", 0.3, 0.5, 0.4), Thing("apple", 0.7, 0.5, 0.3, tint="green")


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return toy_atlas(tmp_path_factory.mktemp("atlas"))


def test_a_caption_tells_what_it_is_asked_to() -> None:
    scene = Scene((FOX, APPLE), Background("blue", pattern="stripes"), "flat")
    assert caption(scene) == "a fox and a green apple on a striped blue background"
    told = Telling((1, 0), sizes=True, relation="right of", style=True, opening="a drawing of", pattern=False)
    words = "a drawing of a small green apple right of a fox in flat style on a blue background"
    assert caption(scene, told) == words
    assert caption(scene, Telling((0,), tints=False, colour=False, pattern=False)) == "a fox"
    assert caption(scene, Telling((0,), style=True, style_last=True)).endswith("background, flat style")


@pytest.mark.parametrize(
    ("background", "words"),
    [
        (Background("white", pattern="gradient"), "a fox on a gradient white background"),
        (Background("blue", pattern="snow", amount=0.9), "a fox on a blue background with many snowflakes"),
        (Background("blue", pattern="snow", amount=0.1), "a fox on a blue background with few snowflakes"),
    ],
)
def test_backgrounds_have_words(background: Background, words: str) -> None:
    assert caption(Scene((FOX,), background)) == words


def test_words_know_the_thing_they_tell_of() -> None:
    words = caption_words(Scene((FOX, APPLE)), Telling((0, 1), sizes=True))
    told = [(word.text, word.thing, word.role) for word in words if word.role]
    assert told == [("fox", 0, "name"), ("small", 1, "size"), ("green", 1, "tint"), ("apple", 1, "name")]


@pytest.mark.parametrize(
    ("place", "relation"), [((0.7, 0.5), "left of"), ((0.3, 0.9), "above"), ((0.35, 0.52), ""), ((0.6, 0.8), "")]
)
def test_a_relation_is_told_only_where_it_is_clear(place: tuple[float, float], relation: str) -> None:
    assert Scene((FOX, replace(APPLE, x=place[0], y=place[1]))).relation == relation


def test_scenes_are_drawn_inside_the_canvas_apart_and_without_what_is_held_out() -> None:
    generator, kept = random.Random(0), held_out(WORLD)
    for _ in range(300):
        scene = sample_scene(WORLD, generator)
        assert scene not in kept
        for thing in scene.things:
            assert thing.size / 2 <= thing.x <= 1 - thing.size / 2
            assert thing.size / 2 <= thing.y <= 1 - thing.size / 2
        if len(scene.things) == 2:
            one, other = scene.things
            assert np.hypot(one.x - other.x, one.y - other.y) > 0.47 * (one.size + other.size)
    assert any(sample_scene(WORLD, generator, may=True) in kept for _ in range(200))


def test_every_kind_of_combination_is_held_out() -> None:
    kept = held_out(WORLD)
    assert len(kept.pairs) == round(0.05 * 60 * 59 / 2)
    assert len(kept.styles) == round(0.05 * 120)
    concept, tint = min(kept.tints)
    assert Scene((Thing(concept, tint=tint),)) in kept
    assert held_out(WORLD) == kept


def test_captions_never_tell_angles_mirrors_and_phases() -> None:
    generator = random.Random(3)
    for _ in range(50):
        scene = sample_scene(WORLD, generator)
        telling = sample_telling(scene, generator)
        turned = moved(scene, 0, angle=12.0, mirror=True)
        turned = replace(turned, background=replace(turned.background, phase=(0.1, 0.2), angle=5.0, seed=1))
        assert caption(turned, telling, WORLD) == caption(scene, telling, WORLD)
        assert joined(caption_words(scene, telling, WORLD)) == caption(scene, telling, WORLD)


@pytest.mark.parametrize(
    ("scene", "complaint"),
    [
        (lambda: Scene((FOX,), style="oil"), "style must be one of noto, twemoji, flat, glossy, got 'oil'"),
        (lambda: Scene((replace(FOX, tint="beige"),)), "tint must be one of .* got 'beige'"),
        (lambda: Scene((FOX,), Background("teal")), "colour must be one of .* got 'teal'"),
        (lambda: Scene(()), "at least one thing"),
    ],
)
def test_an_impossible_scene_is_refused(scene: object, complaint: str) -> None:
    assert callable(scene)
    with pytest.raises(ValueError, match=complaint):
        scene()


def test_a_list_of_concepts_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"things": []}')
    with pytest.raises(ValueError, match="is not a list of concepts"):
        load_concepts(tmp_path / "bad.json")


def test_a_thing_is_drawn_where_it_stands_and_its_mask_says_so(atlas: Atlas) -> None:
    scene = Scene((Thing("disc", 0.25, 0.75, 0.3), Thing("triangle", 0.7, 0.3, 0.4)), Background("white"))
    pixels, masks = render([scene], atlas)
    assert pixels.shape == (1, 3, 128, 128)
    assert masks.shape == (1, 2, 128, 128)
    white = torch.tensor(COLOURS["white"]) / 127.5 - 1
    differs = (pixels[0] - white[:, None, None]).abs().amax(0) > 0.05
    assert torch.equal(differs, masks[0].amax(0) > 0.05) or (differs ^ (masks[0].amax(0) > 0.05)).float().mean() < 0.01
    rows, columns = torch.nonzero(masks[0, 0] > 0.5, as_tuple=True)
    assert abs(float(rows.float().mean()) / 128 - 0.75) < 0.01
    assert abs(float(columns.float().mean()) / 128 - 0.25) < 0.01
    assert 0.75 * 0.3 < float(rows.max() - rows.min()) / 128 < 0.3


def test_the_later_thing_hides_the_earlier(atlas: Atlas) -> None:
    scene = Scene((Thing("square", size=0.5), Thing("disc", size=0.3)))
    _, masks = render([scene], atlas)
    assert masks[0].sum(0).max() <= 1 + 1e-5
    assert masks[0, 0, 64, 64] < 0.01
    assert masks[0, 1, 64, 64] > 0.99


def test_mirror_and_angle_turn_the_drawing(atlas: Atlas) -> None:
    plain = Thing("square", size=0.6)
    images = render(
        [Scene((plain,)), Scene((replace(plain, mirror=True),)), Scene((replace(plain, angle=90.0),))], atlas
    )[0]
    assert torch.allclose(images[1], images[0].flip(-1), atol=0.02)
    assert torch.allclose(images[2], images[0].rot90(-1, (1, 2)), atol=0.02)  # clockwise


def test_a_batch_renders_as_its_scenes_do_alone(atlas: Atlas) -> None:
    generator = random.Random(5)
    scenes = [sample_scene(atlas.world, generator, may=True) for _ in range(12)]
    together, masks = render(scenes, atlas)
    for row, scene in enumerate(scenes):
        alone, mask = render([scene], atlas)
        assert torch.allclose(together[row], alone[0], atol=1e-6)
        assert torch.allclose(masks[row, : mask.shape[1]], mask[0], atol=1e-6)


def test_other_sizes_show_the_same_image(atlas: Atlas) -> None:
    generator = random.Random(6)
    scenes = [sample_scene(atlas.world, generator, may=True) for _ in range(8)]
    large = torch.nn.functional.avg_pool2d(render(scenes, atlas, 256)[0], 2)
    assert (large - render(scenes, atlas)[0]).abs().mean() < 0.02


def test_more_snow_keeps_the_flakes_that_fell() -> None:
    few, many = (flake_places(Background("blue", pattern="snow", amount=a, seed=4)) for a in (0.2, 0.8))
    assert len(few) == round(0.2 * MOST_FLAKES)
    assert many[: len(few)] == few
    white = render_backgrounds([Background("blue", pattern="snow", amount=a, seed=4) for a in (0, 0.5, 1)], 128)
    area = [(one.amin(0) > 0.95).float().mean().item() for one in white]
    assert area[0] == 0 < area[1] < area[2]


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if pattern not in ("plain", "snow")])
def test_a_pattern_is_seen_and_moves_with_its_phase(pattern: str) -> None:
    one, moved_, plain = render_backgrounds(
        [
            Background("red", pattern=pattern, angle=30.0),
            Background("red", pattern=pattern, angle=30.0, phase=(0.5, 0.0)),
            Background("red"),
        ],
        128,
    )
    assert (one - plain).abs().amax() > 0.2
    assert plain.std((1, 2)).max() < 1e-6
    if pattern != "gradient":
        assert (one - moved_).abs().mean() > 0.01


def test_recolouring_moves_the_main_hue_and_keeps_lightness_and_the_rest() -> None:
    drawing = np.zeros((4, 4, 4), np.uint8)
    drawing[:3, :, :] = (200, 40, 40, 255)  # red, the main hue
    drawing[3, :, :] = (40, 160, 40, 255)  # a green leaf
    blue = recoloured(drawing, 240)
    assert blue[0, 0].tolist() == [40, 40, 200, 255]
    assert blue[3, 0].tolist() == [40, 160, 40, 255]
    gray = np.full((2, 2, 4), 128, np.uint8)
    assert recoloured(gray, 240).tolist() == gray.tolist()


def test_a_drawing_that_the_atlas_lacks_is_named(atlas: Atlas) -> None:
    with pytest.raises(KeyError, match="fox"):
        render([Scene((FOX,))], atlas)
