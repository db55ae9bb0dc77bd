"""Edits of scenes, drawn by a seed: most have an exact answer, which can be rendered.

Where a thing is added, and where a relation changes, the new places are free: there the target is one answer of many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import COLOURS, SIZES, TINTS, Scene, World, held_out, moved

MOST_TRIES = 2_000
PATTERN_WORDS = ("stripes", "dots", "checks", "gradient")


@dataclass(frozen=True)
class SceneEdit:
    """An edit with an exact answer.

    Attributes:
        kind: One of `KINDS`.
        source, target: The scenes.
        source_prompt, target_prompt: Their captions.
        things: Indices of the things that the edit changes; empty where the background or the whole changes.
        exact: Whether the target is the only right answer.
    """

    kind: str
    source: Scene
    target: Scene
    source_prompt: str
    target_prompt: str
    things: tuple[int, ...] = ()
    exact: bool = True


def draw_edits(world: World, seed: int, per_kind: int, kinds: Sequence[str] | None = None) -> list[SceneEdit]:
    """Draws edits: all of the first kind, then of the second, ...

    Args:
        world: Its concepts and styles.
        seed: Of all draws.
        per_kind: How many of each kind.
        kinds: Of `KINDS`; None for all.

    Raises:
        ValueError: The world is too small for a kind.
    """
    edits = []
    for kind in kinds or KINDS:
        generator = random.Random(f"{seed} {kind}")  # a kind's edits do not depend on the other kinds
        edits += [replace(_drawn(world, kind, generator), kind=kind) for _ in range(per_kind)]
    return edits


def _drawn(world: World, kind: str, generator: random.Random) -> SceneEdit:
    for _ in range(MOST_TRIES):
        edit = KINDS[kind](world, generator)
        if edit is not None and edit.target not in held_out(world):
            return edit
    raise ValueError(f"a world of {len(world.concepts)} concepts has no edit of kind {kind!r}: take a larger one")


def _edit(
    source: Scene, target: Scene, things: Sequence[int] = (), *, style: bool = False, sizes: bool = False
) -> SceneEdit:
    def words(scene: Scene) -> str:
        plain = scene.background.pattern == "plain"
        indices = tuple(range(len(scene.things)))
        return caption(scene, Telling(indices, pattern=not plain, style=style, sizes=sizes))

    return SceneEdit("", source, target, words(source), words(target), tuple(things))


def _pair(world: World, generator: random.Random) -> Scene:
    return sample_scene(world, generator, things=2)


def _other(generator: random.Random, choices: Sequence[str], *present: str | None) -> str:
    return generator.choice([choice for choice in choices if choice not in present])


def _renamed(world: World, generator: random.Random, scene: Scene, index: int, *, near: bool) -> Scene | None:
    """One thing becomes another, in its place; its tint stays where the new one can have it."""
    present = [thing.concept for thing in scene.things]
    names = world.near(present[index]) if near else world.far(present[index])
    names = [name for name in names if name not in present]
    if scene.things[index].tint is not None:
        names = [name for name in names if world.concept(name).tint]
    return moved(scene, index, concept=generator.choice(names)) if names else None


def _swap(near: bool) -> Callable[[World, random.Random], SceneEdit | None]:
    def change(world: World, generator: random.Random) -> SceneEdit | None:
        scene, index = _pair(world, generator), generator.randrange(2)
        target = _renamed(world, generator, scene, index, near=near)
        return None if target is None else _edit(scene, target, [index])

    return change


def _swap_both(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    first = _renamed(world, generator, scene, 0, near=False)
    both = None if first is None else _renamed(world, generator, first, 1, near=False)
    return None if both is None else _edit(scene, both, [0, 1])


def _recolour(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    able = [n for n, thing in enumerate(scene.things) if world.concept(thing.concept).tint and thing.tint is not None]
    if not able:
        return None
    index = generator.choice(able)
    tint = _other(generator, list(TINTS), scene.things[index].tint)
    return _edit(scene, moved(scene, index, tint=tint), [index])


def _style(world: World, generator: random.Random) -> SceneEdit | None:
    if len(world.styles) < 2:
        raise ValueError(f"edits of style need a world of two styles or more, this one has {world.styles}")
    scene = _pair(world, generator)
    return _edit(scene, replace(scene, style=_other(generator, world.styles, scene.style)), style=True)


def _background(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    colours = [name for name in COLOURS if scene.background.pattern != "snow" or name not in ("white", "yellow")]
    colour = _other(generator, colours, scene.background.colour)
    return _edit(scene, replace(scene, background=replace(scene.background, colour=colour, rgb=None)))


def _pattern(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    if scene.background.pattern == "snow":
        return None
    patterns = ("plain", *PATTERN_WORDS)
    pattern = _other(generator, patterns, scene.background.pattern)
    if "gradient" in (pattern, scene.background.pattern):  # a gradient has no period that could be kept
        return None
    target = replace(scene, background=replace(scene.background, pattern=pattern))
    return replace(_edit(scene, target), target_prompt=_pattern_told(target), source_prompt=_pattern_told(scene))


def _pattern_told(scene: Scene) -> str:
    return caption(scene, Telling(tuple(range(len(scene.things)))))


def _amount(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    if scene.background.pattern != "snow":
        return None
    amounts = {"few": 0.2, "some": 0.5, "many": 0.85}
    before = generator.choice(list(amounts))
    after = _other(generator, list(amounts), before)
    source, target = (replace(scene, background=replace(scene.background, amount=amounts[w])) for w in (before, after))
    return _edit(source, target)


def _remove(world: World, generator: random.Random) -> SceneEdit | None:
    scene, index = _pair(world, generator), generator.randrange(2)
    return _edit(scene, replace(scene, things=(scene.things[1 - index],)), [index])


def _size(world: World, generator: random.Random) -> SceneEdit | None:
    scene, index = _pair(world, generator), generator.randrange(2)
    low, high = SIZES[2]
    sizes = [low + 0.15 * (high - low), low + 0.85 * (high - low)]
    generator.shuffle(sizes)
    source, target = (moved(scene, index, size=size) for size in sizes)
    if not all(_fits(one) for one in (source, target)):
        return None
    return _edit(source, target, [index], sizes=True)


def _fits(scene: Scene) -> bool:
    """Whether things lie inside the canvas and hardly overlap."""
    one, other = scene.things
    apart = ((one.x - other.x) ** 2 + (one.y - other.y) ** 2) ** 0.5
    inside = all(t.size / 2 <= c <= 1 - t.size / 2 for t in scene.things for c in (t.x, t.y))
    return inside and apart > 0.45 * (one.size + other.size)


def _two(world: World, generator: random.Random) -> SceneEdit | None:
    scene, index = _pair(world, generator), generator.randrange(2)
    target = _renamed(world, generator, scene, index, near=True)
    if target is None or scene.background.pattern == "snow":
        return None
    colour = _other(generator, list(COLOURS), scene.background.colour)
    return _edit(scene, replace(target, background=replace(target.background, colour=colour, rgb=None)), [index])


def _add(world: World, generator: random.Random) -> SceneEdit | None:
    target = _pair(world, generator)
    source = replace(target, things=(target.things[0],))
    return replace(_edit(source, target), exact=False)


def _relation(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    one, other = scene.things
    target = moved(moved(scene, 0, x=other.x, y=other.y), 1, x=one.x, y=one.y)
    if not (scene.relation and target.relation and _fits(target)):
        return None
    plain = scene.background.pattern == "plain"
    before, after = (
        caption(each, Telling((0, 1), relation=each.relation, pattern=not plain)) for each in (scene, target)
    )
    return SceneEdit("", scene, target, before, after, things=(0, 1), exact=False)


def _none(world: World, generator: random.Random) -> SceneEdit | None:
    scene = _pair(world, generator)
    return _edit(scene, scene)


KINDS: dict[str, Callable[[World, random.Random], SceneEdit | None]] = {
    "swap-near": _swap(near=True),
    "swap-far": _swap(near=False),
    "swap-both": _swap_both,
    "recolour": _recolour,
    "style": _style,
    "background": _background,
    "pattern": _pattern,
    "amount": _amount,
    "remove": _remove,
    "size": _size,
    "two-edits": _two,
    "add": _add,
    "relation": _relation,
    "none": _none,
}
"""Name of a kind -> its draw; None where the drawn scene has no such edit."""
