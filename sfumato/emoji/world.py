"""The emoji world: concepts, drawing styles, backgrounds, placement, and the captions that name them.

A `Scene` fixes an image completely, so every edit of concept, style, background, position or size has an exact answer:
render the changed scene (`sfumato.emoji.training.data.Renderer`). Nothing here needs the network or a heavy import.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLES: dict[str, str] = {
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "flat": "@iconify-json/fluent-emoji-flat",
    "glossy": "@iconify-json/fluent-emoji",
}
"""Style word of the captions -> npm package that draws it."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "gray": (150, 152, 156),
    "red": (206, 62, 66),
    "yellow": (250, 216, 92),
    "green": (112, 188, 104),
    "blue": (88, 148, 230),
    "purple": (148, 98, 200),
    "pink": (246, 172, 204),
}
"""Background word -> nominal sRGB colour, 0-255."""

POSITIONS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "left": (0.3, 0.5),
    "right": (0.7, 0.5),
    "top": (0.5, 0.3),
    "bottom": (0.5, 0.7),
}
"""Position word -> centre of the drawing, as a share of the canvas, x rightwards and y downwards."""

BACKGROUND_JITTER = 10
SCALE = 0.88
SMALL_SCALE = 0.54
SMALL_BELOW = 0.68
SMALL_SHARE = 0.3
HELD_OUT_SHARE = 0.05
HELD_OUT_SEED = 20

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Concept:
    """A thing that can be drawn.

    Attributes:
        name: The words that name it in captions, in lower case ("cat face").
        hexcode: Its Unicode code points as emojibase writes them ("1F431").
        group: emojibase group name ("animals-nature").
        subgroup: emojibase subgroup name ("animal-mammal"); empty where it is not known.
        flip: Whether its mirror image still shows the same thing.
    """

    name: str
    hexcode: str
    group: str
    subgroup: str = ""
    flip: bool = True


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image of the emoji world.

    Attributes:
        concept: Name of the concept ("cat face").
        style: A key of `STYLES`.
        background: A key of `BACKGROUNDS`.
        position: Centre of the drawing as a share of the canvas, each in [0, 1].
        scale: Side of the drawing as a share of the canvas, in (0, 1.5].
        flip: Mirrored left to right.
        background_rgb: The exact colour, 0-255, where it differs from the named one (jitter); None for the named one.

    Raises:
        ValueError: An unknown style or background, or a position or scale out of range.
    """

    concept: str
    style: str = "noto"
    background: str = "white"
    position: tuple[float, float] = (0.5, 0.5)
    scale: float = SCALE
    flip: bool = False
    background_rgb: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, got {self.style!r}")
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}, got {self.background!r}")
        if not all(0 <= coordinate <= 1 for coordinate in self.position):
            raise ValueError(f"position must lie in [0, 1] x [0, 1], got {self.position}")
        if not 0 < self.scale <= 1.5:
            raise ValueError(f"scale must be in (0, 1.5], got {self.scale}")

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background's sRGB colour, 0-255."""
        return self.background_rgb or BACKGROUNDS[self.background]

    @property
    def is_small(self) -> bool:
        """Whether captions call the drawing small."""
        return self.scale < SMALL_BELOW

    @property
    def position_word(self) -> str:
        """The key of `POSITIONS` that is nearest."""
        x, y = self.position
        return min(POSITIONS, key=lambda word: (POSITIONS[word][0] - x) ** 2 + (POSITIONS[word][1] - y) ** 2)


def load_concepts(path: str | Path | None = None) -> list[Concept]:
    """Loads a list of concepts from a JSON file written by `python -m sfumato.emoji.training.data --write-concepts`.

    Args:
        path: The file; None for the concepts of the shipped model.

    Returns:
        The concepts, in the file's order.

    Raises:
        ValueError: The file is not such a list.
    """
    file = Path(path) if path is not None else _FOLDER / "concepts.json"
    try:
        return [Concept(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))["concepts"]]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not a list of emoji concepts: {error}") from error


def relatives(concept: Concept, concepts: Sequence[Concept]) -> list[Concept]:
    """Lists the other concepts of its subgroup, or of its group where it has the subgroup to itself."""
    others = [other for other in concepts if other.name != concept.name and other.group == concept.group]
    return [other for other in others if other.subgroup == concept.subgroup] or others


def held_out_pairs(
    concepts: Sequence[Concept], *, share: float = HELD_OUT_SHARE, seed: int = HELD_OUT_SEED
) -> list[tuple[str, str]]:
    """Names the (concept, style) pairs that no stage of the generator is trained on.

    For the shipped world they are listed in `held_out.json`; for any other list of concepts they are drawn.

    At most one style of a concept is held out, so that the concept itself is always learned from three styles.

    Args:
        concepts: The concepts of the world; their order does not matter.
        share: Share of all pairs, in [0, 0.25].
        seed: Seed of the choice.

    Returns:
        Sorted (concept name, style) pairs.
    """
    if not 0 <= share <= 0.25:
        raise ValueError(f"share must be in [0, 0.25], got {share}")
    names = sorted(concept.name for concept in concepts)
    if (share, seed) == (HELD_OUT_SHARE, HELD_OUT_SEED) and names == sorted(c.name for c in load_concepts()):
        listed = json.loads((_FOLDER / "held_out.json").read_text(encoding="utf-8"))["pairs"]
        return sorted((name, style) for name, style in listed)
    generator = random.Random(seed)
    chosen = generator.sample(names, round(share * len(names) * len(STYLES)))
    return sorted((name, generator.choice(list(STYLES))) for name in chosen)


def sample_scene(concept: Concept, style: str, generator: random.Random, *, flip_probability: float = 0.0) -> Scene:
    """Draws a scene: most fill the canvas near its centre, a share of `SMALL_SHARE` is small and may stand aside.

    Args:
        concept: What is drawn.
        style: A key of `STYLES`.
        generator: The only source of randomness.
        flip_probability: Chance of a mirror image, where the concept allows one.
    """
    background = generator.choice(list(BACKGROUNDS))
    rgb = tuple(
        min(255, max(0, value + generator.randint(-BACKGROUND_JITTER, BACKGROUND_JITTER)))
        for value in BACKGROUNDS[background]
    )
    small = generator.random() < SMALL_SHARE
    x, y = POSITIONS[generator.choice(list(POSITIONS))] if small else POSITIONS["center"]
    scale = generator.uniform(0.48, 0.6) if small else generator.uniform(0.82, 0.95)
    jitter = 0.03
    return Scene(
        concept=concept.name,
        style=style,
        background=background,
        position=(x + generator.uniform(-jitter, jitter), y + generator.uniform(-jitter, jitter)),
        scale=scale,
        flip=concept.flip and generator.random() < flip_probability,
        background_rgb=(rgb[0], rgb[1], rgb[2]),
    )


def with_article(words: str) -> str:
    """Puts "a" or "an" in front: `with_article("owl")` is "an owl". Words that are plural keep none."""
    if words.removeprefix("small ") in PLURAL:
        return words
    return f"{'an' if words[:1].lower() in 'aeio' else 'a'} {words}"


def caption(
    scene: Scene,
    *,
    style: bool = True,
    background: bool = True,
    placement: bool = True,
    opening: str = "",
    background_first: bool = False,
) -> str:
    """Writes the caption of a scene.

    Args:
        scene: What to describe.
        style: Whether to name the drawing style.
        background: Whether to name the background.
        placement: Whether to name size and position (only a small drawing has words for them).
        opening: Such as "a drawing of"; empty for none.
        background_first: The background before the style.

    Returns:
        For instance `a drawing of a small dog face on the left in noto style on a blue background`.
    """
    small = placement and scene.is_small
    words = with_article(f"small {scene.concept}" if small else scene.concept)
    if small and scene.position_word != "center":
        words += f" {'at' if scene.position_word in ('top', 'bottom') else 'on'} the {scene.position_word}"
    parts = [f"in {scene.style} style"] if style else []
    parts += [f"on {with_article(scene.background)} background"] if background else []
    if background_first:
        parts.reverse()
    return " ".join(filter(None, [opening, words, *parts]))


PLURAL = (
    *("beans", "blueberries", "cherries", "chopsticks", "clinking beer mugs", "clinking glasses", "french fries"),
    *("glasses", "grapes", "hot springs", "pancakes", "paw prints", "peanuts"),
)
"""Names of concepts that take no article."""
OPENINGS = ("a drawing of", "a picture of", "an emoji of", "an icon of")


def sample_caption(scene: Scene, generator: random.Random) -> str:
    """Draws one of the captions of a scene: style and background are each left out one time in five."""
    return caption(
        scene,
        style=generator.random() < 0.8,
        background=generator.random() < 0.8,
        placement=generator.random() < 0.95,
        opening=generator.choice(OPENINGS) if generator.random() < 0.5 else "",
        background_first=generator.random() < 0.3,
    )
