"""The scenes of the benchmarks, drawn by a seed; images of them are rendered when they are asked for."""

from __future__ import annotations

import random
from dataclasses import replace

from PIL import Image

from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_edits import KINDS, SceneEdit, draw_edits
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import COLOURS, Background, Scene, Thing, World, held_out
from sfumato.images import to_images

TEST_SEED = 2024
"""Of the scenes that are reported; options are chosen on those of other seeds."""
PER_KIND = 15
OPEN_KINDS = ("add", "relation")
"""Kinds without a single right answer; there are fewer of them."""
PER_OPEN_KIND = 10
PORTRAIT_SIZE = 0.72


def emoji_edits(world: World, seed: int = TEST_SEED, per_kind: int = PER_KIND) -> list[SceneEdit]:
    """The edits of EmojiEdit: all of the first kind, then of the second, ...

    Args:
        world: Its concepts and styles.
        seed: `TEST_SEED` for the benchmark; any other for choosing options.
        per_kind: How many of each kind, of `OPEN_KINDS` two thirds as many.
    """
    kinds = [kind for kind in KINDS if kind != "style" or len(world.styles) > 1]
    return [
        edit
        for kind in kinds
        for edit in draw_edits(
            world, seed, per_kind if kind not in OPEN_KINDS else max(1, per_kind * PER_OPEN_KIND // PER_KIND), [kind]
        )
    ]


def portraits(world: World, seed: int = TEST_SEED) -> list[list[Scene]]:
    """One large thing on a plain background: for each concept, one scene a style, in the world's order."""
    generator = random.Random(seed)
    return [
        [
            Scene((Thing(concept.name, size=PORTRAIT_SIZE),), background, style)
            for background in [Background(generator.choice(list(COLOURS)))]
            for style in world.styles
        ]
        for concept in world.concepts
    ]


def scenes_in_styles(world: World, count: int, seed: int = TEST_SEED) -> list[list[Scene]]:
    """Scenes as the model was trained on, each in every style of the world; no combination is held out."""
    generator, found = random.Random(seed), list[list[Scene]]()
    while len(found) < count:
        scene = sample_scene(world, generator)
        in_styles = [replace(scene, style=style) for style in world.styles]
        if not any(one in held_out(world) for one in in_styles):
            found.append(in_styles)
    return found


def rendered(scenes: list[Scene], atlas: Atlas) -> list[Image.Image]:
    """The images of scenes, 128 pixels wide."""
    return to_images(render(scenes, atlas)[0])
