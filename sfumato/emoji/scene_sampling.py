"""Draws scenes at random."""

from __future__ import annotations

import math
import random

from sfumato.emoji.scenes import COLOURS, PATTERNS, SIZES, TINTS, Background, Scene, Thing, World, held_out

COLOUR_JITTER = 8
LARGEST_ANGLE = 25.0
MOST_TRIES = 1_000


def sample_scene(world: World, generator: random.Random, *, things: int | None = None, may: bool = False) -> Scene:
    """Draws a scene.

    Args:
        world: Its concepts and styles.
        generator: The only source of randomness.
        things: How many; None: one to three, mostly two.
        may: Whether combinations that are held out may come.

    Raises:
        ValueError: The world is too small.
    """
    for _ in range(MOST_TRIES):
        scene = _any_scene(world, generator, things or generator.choices((1, 2, 3), (0.3, 0.6, 0.1))[0])
        if may or scene not in held_out(world):
            return scene
    raise ValueError(f"a world of {len(world.concepts)} concepts leaves no such scene: all are held out")


def _any_scene(world: World, generator: random.Random, count: int) -> Scene:
    concepts = generator.sample(world.concepts, count)
    things = []
    for concept, (x, y, size) in zip(concepts, _places(generator, count), strict=True):
        tint = generator.choice(list(TINTS)) if concept.tint and generator.random() < 0.5 else None
        angle = generator.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)
        things.append(Thing(concept.name, x, y, size, angle, generator.random() < 0.5, tint))
    return Scene(tuple(things), sample_background(generator), generator.choice(world.styles))


def _places(generator: random.Random, count: int) -> list[tuple[float, float, float]]:
    """Centres and sizes of things that overlap little and lie inside the canvas."""
    low, high = SIZES[count]
    while True:
        places = []
        for _ in range(count):
            size = generator.uniform(low, high)
            margin = 0.52 * size
            places.append((generator.uniform(margin, 1 - margin), generator.uniform(margin, 1 - margin), size))
        if all(
            math.hypot(one[0] - other[0], one[1] - other[1]) > 0.47 * (one[2] + other[2])
            for number, one in enumerate(places)
            for other in places[number + 1 :]
        ):
            return places


def sample_background(generator: random.Random) -> Background:
    """Draws a background: a third plain, the others patterned."""
    colour = generator.choice(list(COLOURS))
    pattern = generator.choices(list(PATTERNS), (0.34, 0.14, 0.12, 0.12, 0.1, 0.18))[0]
    if pattern == "snow" and colour in ("white", "yellow"):  # white flakes would not show
        colour = generator.choice([name for name in COLOURS if name not in ("white", "yellow")])
    red, green, blue = (min(255, value + generator.randint(-COLOUR_JITTER, COLOUR_JITTER)) for value in COLOURS[colour])
    return Background(
        colour,
        (red, green, blue),
        pattern,
        generator.uniform(0, 180 if pattern != "gradient" else 360),
        (generator.random(), generator.random()),
        generator.uniform(16, 30),
        generator.uniform(0.08, 1) if pattern == "snow" else 0.0,
        generator.randrange(2**31),
    )
