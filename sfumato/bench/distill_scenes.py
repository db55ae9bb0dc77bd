"""Scenes of the benchmark of distillation: one edit each, in many scenes, each with its exact answer.

A student makes one edit, so its scenes all ask for the same: one concept for another, one tint for another, one style
for another. Everything else in them is drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scene_edits import SceneEdit
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import Scene, World, held_out, moved
from sfumato.errors import UsageError

MOST_TRIES = 1_000
SWAP, RECOLOURED, TINTS = ("cat", "dog"), "apple", ("red", "green")
"""What is chosen where the world has it; else the first that does."""

Draw = Callable[[World, random.Random], "SceneEdit | None"]


def scene_edits(world: World, name: str, count: int, seed: int, *, swap: tuple[str, str] = SWAP) -> list[SceneEdit]:
    """Draws scenes of one edit, none of them or of their answers held out from the model.

    Args:
        world: Its concepts and styles.
        name: A key of `EDITS`.
        count: How many.
        seed: Of all draws: another one for training than for measuring.
        swap: Concepts of the edit "swap", before and after.

    Raises:
        UsageError: The world has no such edit.
    """
    generator, found = random.Random(f"{seed} {name}"), list[SceneEdit]()
    draw = partial(_swap, swap=swap) if name == "swap" else EDITS[name]
    for _ in range(MOST_TRIES + 50 * count):
        edit = draw(world, generator)
        if edit is not None and not any(scene in held_out(world) for scene in (edit.source, edit.target)):
            found.append(edit)
        if len(found) == count:
            return found
    raise UsageError(f"a world of {len(world.concepts)} concepts has no edits of kind {name!r}: take a larger one")


def _scene(world: World, generator: random.Random, concept: str, without: str = "") -> tuple[Scene, int] | None:
    """A scene with a thing of a concept, and its index."""
    scene = sample_scene(world, generator, things=generator.choice((1, 2)), may=True)
    index = generator.randrange(len(scene.things))
    others = [thing.concept for number, thing in enumerate(scene.things) if number != index]
    if concept in others or without in others:
        return None
    return moved(scene, index, concept=concept, tint=None), index


def _edit(name: str, source: Scene, target: Scene, things: tuple[int, ...], *, style: bool = False) -> SceneEdit:
    def words(scene: Scene) -> str:
        plain = scene.background.pattern == "plain"
        return caption(scene, Telling(tuple(range(len(scene.things))), pattern=not plain, style=style))

    return SceneEdit(name, source, target, words(source), words(target), things)


def _swap(world: World, generator: random.Random, swap: tuple[str, str] = SWAP) -> SceneEdit | None:
    names = [concept.name for concept in world.concepts]
    before, after = swap
    if not {before, after} <= set(names):
        before = names[0]
        after = [*world.near(before), *world.far(before)][0]
    drawn = _scene(world, generator, before, after)
    if drawn is None:
        return None
    scene, index = drawn
    return _edit("swap", scene, moved(scene, index, concept=after), (index,))


def _recolour(world: World, generator: random.Random) -> SceneEdit | None:
    able = [concept.name for concept in world.concepts if concept.tint]
    if not able or (drawn := _scene(world, generator, RECOLOURED if RECOLOURED in able else able[0])) is None:
        return None
    scene, index = drawn
    source, target = (moved(scene, index, tint=tint) for tint in TINTS)
    return _edit("recolour", source, target, (index,))


def _style(world: World, generator: random.Random) -> SceneEdit | None:
    if len(world.styles) < 2:
        return None
    scene = sample_scene(world, generator, things=generator.choice((1, 2)), may=True)
    source, target = (replace(scene, style=style) for style in world.styles[:2])
    return _edit("style", source, target, tuple(range(len(scene.things))), style=True)


EDITS: dict[str, Draw] = {"swap": _swap, "recolour": _recolour, "style": _style}
"""Name -> its draw; None where the drawn scene has no such edit."""
