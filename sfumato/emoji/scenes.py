"""The world of scenes: things in places, on a background, in a style; and the captions that tell a part of it.

A `Scene` fixes an image completely, so every edit of it has an exact answer: change the scene and render it
(`sfumato.emoji.render`). Captions leave out angles, mirror images and phases always, and much else sometimes: this is
what an edit has to keep and what drawing anew cannot know. Nothing here is heavy to import.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

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
"""Pattern of a background -> its adjective; snow is told by its amount."""

AMOUNTS: dict[str, float] = {"few": 0.2, "some": 0.5, "many": 0.85}
"""Word of an amount of snowflakes -> the share of `MOST_FLAKES` it stands for; between them the nearest word."""

MOST_FLAKES = 49
COLOUR_JITTER = 8
LARGEST_ANGLE = 25.0
SIZES: dict[int, tuple[float, float]] = {1: (0.36, 0.8), 2: (0.27, 0.54), 3: (0.22, 0.4)}
"""Number of things -> smallest and largest side of a thing, as a share of the canvas."""
SMALL_BELOW, BIG_ABOVE = 0.3, 0.7
"""Share of that range below which a thing is called small, above which it is called big."""
OPENINGS = ("a drawing of", "a picture of", "an emoji of", "an icon of")
RELATIONS = ("left of", "right of", "above", "below", "next to")
PLURAL = ("cherries", "pancakes")
"""Names of concepts that take no article."""
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
    file = Path(path) if path is not None else Path(__file__).with_name("things.json")
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


def sample_scene(world: World, generator: random.Random, *, things: int | None = None, may: bool = False) -> Scene:
    """Draws a scene.

    Args:
        world: Its concepts and styles.
        generator: The only source of randomness.
        things: How many; None: one to three, mostly two.
        may: Whether combinations that are held out may come.
    """
    while True:
        scene = _any_scene(world, generator, things or generator.choices((1, 2, 3), (0.3, 0.6, 0.1))[0])
        if may or scene not in held_out(world):
            return scene


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


@dataclass(frozen=True)
class Telling:
    """What a caption tells, and how.

    Attributes:
        things: Indices of the things that are named, in the caption's order.
        tints, sizes: Whether tints, and the words "small" and "big", are told.
        relation: Word between two things; "" for "and".
        style, colour, pattern, amount: Whether they are told.
        opening: Such as "a drawing of"; "" for none.
        style_last: ", noto style" at the end instead of "in noto style".
        other_names: Whether things that have another name get it.
    """

    things: tuple[int, ...]
    tints: bool = True
    sizes: bool = False
    relation: str = ""
    style: bool = False
    colour: bool = True
    pattern: bool = True
    amount: bool = True
    opening: str = ""
    style_last: bool = False
    other_names: bool = False


def article(word: str) -> str:
    """ "a" or "an", as the word that follows asks."""
    return "an" if word[:1] in "aeio" or word.startswith("umb") else "a"


@dataclass(frozen=True)
class Word:
    """A word of a caption.

    Attributes:
        text: Without spaces; a comma is a word of its own.
        thing: Index of the thing that it tells of, or None.
        role: "name", "tint", "size", "amount", or "" for any other.
    """

    text: str
    thing: int | None = None
    role: str = ""


def caption(scene: Scene, telling: Telling | None = None, world: World | None = None) -> str:
    """Writes a caption of a scene.

    Args:
        scene: What to describe.
        telling: What is told; None: all things, tints, colour, and a pattern that is not plain.
        world: Needed for other names.

    Returns:
        For instance "a small green apple left of a fox on a striped blue background".
    """
    return joined(caption_words(scene, telling, world))


def joined(words: Sequence[Word]) -> str:
    """The words as text."""
    return " ".join(word.text for word in words).replace(" ,", ",")


def caption_words(scene: Scene, telling: Telling | None = None, world: World | None = None) -> list[Word]:
    """The words of `caption`, each with what it tells of."""
    plain = scene.background.pattern == "plain"
    telling = telling or Telling(tuple(range(len(scene.things))), pattern=not plain)
    words = [Word(text) for text in telling.opening.split()]
    last = len(telling.things) - 1
    for number, index in enumerate(telling.things):
        if number:
            between = telling.relation if telling.relation and last == 1 else "and" if number == last else ","
            words += [Word(text) for text in between.split()]
        words += _noun(scene, index, telling, world)
    style = [Word(text) for text in (scene.style, "style")] if telling.style else []
    if style and not telling.style_last:
        words += [Word("in"), *style]
    words += _behind(scene.background, telling)
    return [*words, Word(","), *style] if style and telling.style_last else words


def _noun(scene: Scene, index: int, telling: Telling, world: World | None) -> list[Word]:
    thing = scene.things[index]
    name = thing.concept
    if telling.other_names and world is not None and (others := world.concept(name).other_names):
        name = others[0]
    words = [Word(text, index, "name") for text in name.split()]
    if telling.tints and thing.tint is not None:
        words.insert(0, Word(thing.tint, index, "tint"))
    if telling.sizes and (size := scene.size_word(thing)):
        words.insert(0, Word(size, index, "size"))
    return words if name in PLURAL else [Word(article(words[0].text)), *words]


def _behind(background: Background, telling: Telling) -> list[Word]:
    adjective = PATTERNS[background.pattern] if telling.pattern else ""
    behind = [text for text in (adjective, background.colour if telling.colour else "") if text]
    texts = ["on", article(behind[0]), *behind, "background"] if behind else []
    words = [Word(text) for text in texts]
    if background.pattern == "snow" and telling.pattern:
        if telling.amount:
            return [*words, Word("with"), Word(background.amount_word, None, "amount"), Word("snowflakes")]
        words += [Word("in"), Word("the"), Word("snow")]
    return words


def sample_telling(scene: Scene, generator: random.Random) -> Telling:
    """Draws what a caption tells: mostly the things, tints and colour; sizes, relation, style, pattern sometimes."""
    indices = list(range(len(scene.things)))
    generator.shuffle(indices)
    if len(indices) > 1 and generator.random() < 0.07:
        indices.pop()
    relation = ""
    if len(indices) == 2 and (true := Scene(tuple(scene.things[i] for i in indices)).relation):
        relation = generator.choices(("", true, "next to"), (0.45, 0.47, 0.08))[0]
    plain = scene.background.pattern == "plain"
    return Telling(
        tuple(indices),
        tints=generator.random() < 0.9,
        sizes=generator.random() < 0.5,
        relation=relation,
        style=generator.random() < 0.5,
        colour=generator.random() < 0.85,
        pattern=generator.random() < (0.2 if plain else 0.75),
        amount=generator.random() < 0.8,
        opening=generator.choice(OPENINGS) if generator.random() < 0.25 else "",
        style_last=generator.random() < 0.4,
        other_names=generator.random() < 0.25,
    )


def sample_caption(scene: Scene, generator: random.Random, world: World | None = None) -> str:
    """Draws one of the captions of a scene."""
    return caption(scene, sample_telling(scene, generator), world)


def vocabulary(concepts: Sequence[Concept]) -> list[str]:
    """Every word of the captions, once each."""
    words = [*STYLES, *COLOURS, *TINTS, *PATTERNS.values(), *AMOUNTS, *OPENINGS, *RELATIONS]
    words += ["a an and with without in on at of the to style background small big large tiny snow snowflakes stars"]
    words += ["colourful photo face left right top bottom center two three"]
    for concept in concepts:
        words += [concept.name, *concept.other_names]
    return list(dict.fromkeys(word for text in words for word in text.split()))


def moved(scene: Scene, index: int, **changes: object) -> Scene:
    """The scene with one thing changed, as in `moved(scene, 0, concept="fox")`."""
    things = list(scene.things)
    things[index] = replace(things[index], **changes)  # type: ignore[arg-type]
    return replace(scene, things=tuple(things))
