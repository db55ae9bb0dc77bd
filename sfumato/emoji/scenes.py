"""The world of scenes: things in places, on a background, in a style; and the captions that tell a part of it.

A `Scene` fixes an image completely, so every edit of it has an exact answer: change the scene and render it
(`sfumato.emoji.render`). Captions leave out angles, mirror images and phases always, and much else sometimes: this is
what an edit has to keep and what drawing anew cannot know. Nothing here is heavy to import.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

SIZE = 128
"""Side of an image in pixels."""

STYLES = ("noto", "twemoji", "flat", "glossy")

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 248),
    "gray": (150, 152, 156),
    "red": (206, 62, 66),
    "yellow": (250, 216, 92),
    "green": (112, 188, 104),
    "blue": (88, 148, 230),
    "purple": (148, 98, 200),
    "pink": (246, 172, 204),
}
"""Word of a background colour -> nominal sRGB, 0-255."""

TINTS: dict[str, float] = {"red": 0, "yellow": 50, "green": 125, "blue": 212, "purple": 275, "pink": 325}
"""Word of a thing's tint -> hue in degrees."""

PATTERNS: dict[str, str] = {
    "plain": "plain",
    "stripes": "striped",
    "dots": "dotted",
    "checks": "checked",
    "gradient": "gradient",
    "snow": "",
}
"""Pattern of a background -> its adjective; snow is described by its amount."""

AMOUNTS: dict[str, float] = {"few": 0.2, "some": 0.5, "many": 0.85}
"""Word of an amount of snowflakes -> the share of `MOST_FLAKES` it stands for; between them the nearest word."""

MOST_FLAKES = 49
SIZES: dict[int, tuple[float, float]] = {1: (0.36, 0.8), 2: (0.27, 0.54), 3: (0.22, 0.4)}
"""Number of things -> smallest and largest side of a thing, as a share of the canvas."""
SMALL_BELOW, BIG_ABOVE = 0.3, 0.7
"""Share of that range below which a thing is called small, above which it is called big."""
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class Concept:
    """What a thing may be.

    Attributes:
        name: Its word in captions.
        hexcode: Unicode code points of its drawing, as emojibase writes them.
        kind: "animal", "food", "plant" or "thing"; near concepts are of one kind.
        tint: Whether recoloured drawings of it read well.
        other_names: Further names that captions use now and then.
    """

    name: str
    hexcode: str
    kind: str
    tint: bool = False
    other_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thing:
    """One thing in a scene.

    Attributes:
        concept: Name of its concept.
        x, y: Its centre as a share of the canvas, rightwards and downwards.
        size: Side of its drawing as a share of the canvas.
        angle: Rotation in degrees, clockwise.
        mirror: Mirrored left to right.
        tint: A key of `TINTS`, or None for its own colours.
    """

    concept: str
    x: float = 0.5
    y: float = 0.5
    size: float = 0.6
    angle: float = 0.0
    mirror: bool = False
    tint: str | None = None


@dataclass(frozen=True)
class Background:
    """What is behind the things.

    Attributes:
        colour: A key of `COLOURS`.
        rgb: The exact colour, 0-255, where it differs from the nominal one.
        pattern: A key of `PATTERNS`.
        angle: Direction of the pattern in degrees.
        phase: Shift of the pattern along both of its axes, each a share of the spacing.
        spacing: Period of stripes, dots and checks in pixels.
        amount: Share of `MOST_FLAKES` snowflakes that fall, in [0, 1]; for snow only.
        seed: Of the snowflakes' places; more flakes keep the places of the fewer.
    """

    colour: str = "white"
    rgb: tuple[int, int, int] | None = None
    pattern: str = "plain"
    angle: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)
    spacing: float = 20.0
    amount: float = 0.0
    seed: int = 0

    @property
    def exact(self) -> tuple[int, int, int]:
        """The base colour, sRGB 0-255."""
        return self.rgb or COLOURS[self.colour]

    @property
    def amount_word(self) -> str:
        """The key of `AMOUNTS` that is nearest."""
        return min(AMOUNTS, key=lambda word: abs(AMOUNTS[word] - self.amount))


@dataclass(frozen=True)
class Scene:
    """Everything that decides an image of the world. The first of two things that overlap is below.

    Raises:
        ValueError: An unknown style, colour, tint or pattern, or no thing.
    """

    things: tuple[Thing, ...]
    background: Background = field(default_factory=Background)
    style: str = "noto"

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.style, STYLES, "style"),
            (self.background.colour, COLOURS, "colour"),
            (self.background.pattern, PATTERNS, "pattern"),
            *((thing.tint, TINTS, "tint") for thing in self.things if thing.tint is not None),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}")
        if not self.things:
            raise ValueError("a scene needs at least one thing")

    def size_word(self, thing: Thing) -> str:
        """ "small", "big" or "" for a thing of this scene, by the range of scenes with as many things."""
        low, high = SIZES[min(len(self.things), 3)]
        share = (thing.size - low) / (high - low)
        return "small" if share < SMALL_BELOW else "big" if share > BIG_ABOVE else ""

    @property
    def relation(self) -> str:
        """How the first of two things stands to the second: "left of", ..., "above"; "" where it is not clear."""
        if len(self.things) != 2:
            return ""
        across, down = self.things[0].x - self.things[1].x, self.things[0].y - self.things[1].y
        if max(abs(across), abs(down)) < 0.2 or 0.7 < abs(across) / max(abs(down), 1e-6) < 1.4:
            return ""
        if abs(across) > abs(down):
            return "left of" if across < 0 else "right of"
        return "above" if down < 0 else "below"


def read_scene(entry: Mapping[str, Any]) -> Scene:
    """A scene from JSON, as `dataclasses.asdict` gives it.

    Raises:
        ValueError: It is no scene.
    """
    try:
        background: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in entry["background"].items()
        }
        things = tuple(Thing(**thing) for thing in entry["things"])
        return Scene(things, Background(**background), entry["style"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a scene: {error}") from error


@dataclass(frozen=True)
class World:
    """Which concepts and styles there are.

    Attributes:
        concepts: In a fixed order.
        styles: Of `STYLES`.
    """

    concepts: tuple[Concept, ...]
    styles: tuple[str, ...] = STYLES

    def concept(self, name: str) -> Concept:
        """The concept of a name. Raises KeyError where there is none."""
        for concept in self.concepts:
            if concept.name == name:
                return concept
        raise KeyError(name)

    def near(self, name: str) -> list[str]:
        """The other concepts of the same kind."""
        kind = self.concept(name).kind
        return [concept.name for concept in self.concepts if concept.kind == kind and concept.name != name]

    def far(self, name: str) -> list[str]:
        """The concepts of other kinds."""
        kind = self.concept(name).kind
        return [concept.name for concept in self.concepts if concept.kind != kind]


def load_concepts(path: str | Path | None = None) -> tuple[Concept, ...]:
    """Reads a list of concepts.

    Args:
        path: JSON file `{"concepts": [...]}`; None for all that the package knows.

    Raises:
        ValueError: The file is no such list.
    """
    file = Path(path) if path is not None else Path(__file__).with_name("concepts.json")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["concepts"]
        return tuple(Concept(**{**entry, "other_names": tuple(entry.get("other_names", ()))}) for entry in entries)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not a list of concepts: {error}") from error


@dataclass(frozen=True)
class HeldOut:
    """Combinations that no stage of the generator is trained on.

    Attributes:
        tints: (concept, tint).
        styles: (concept, style).
        pairs: Two names of concepts, in alphabetical order.
    """

    tints: frozenset[tuple[str, str]]
    styles: frozenset[tuple[str, str]]
    pairs: frozenset[tuple[str, str]]

    def __contains__(self, scene: object) -> bool:
        assert isinstance(scene, Scene)
        names = sorted(thing.concept for thing in scene.things)
        return (
            any((thing.concept, thing.tint) in self.tints for thing in scene.things)
            or any((name, scene.style) in self.styles for name in names)
            or any((one, other) in self.pairs for n, one in enumerate(names) for other in names[n + 1 :])
        )


@cache
def held_out(world: World, share: float = HELD_OUT_SHARE, seed: int = 20) -> HeldOut:
    """Chooses a share of the tints, of the styles (where there are several) and of the pairs; at least one of each."""
    generator = random.Random(seed)
    names = sorted(concept.name for concept in world.concepts)
    tints = [(c.name, tint) for c in sorted(world.concepts, key=lambda c: c.name) if c.tint for tint in TINTS]
    styles = [(name, style) for name in names for style in world.styles]
    pairs = [(one, other) for number, one in enumerate(names) for other in names[number + 1 :]]

    def some(combinations: list[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        return frozenset(generator.sample(combinations, max(1, round(share * len(combinations)))))

    return HeldOut(
        some(tints) if tints else frozenset(), some(styles) if len(world.styles) > 1 else frozenset(), some(pairs)
    )


def moved(scene: Scene, index: int, **changes: object) -> Scene:
    """The scene with one thing changed, as in `moved(scene, 0, concept="fox")`."""
    things = list(scene.things)
    things[index] = replace(things[index], **changes)  # type: ignore[arg-type]
    return replace(scene, things=tuple(things))
