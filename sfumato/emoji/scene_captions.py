"""Captions of scenes: a small grammar that tells a part of what there is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.emoji.scenes import AMOUNTS, COLOURS, PATTERNS, STYLES, TINTS, Background, Concept, Scene, World

OPENINGS = ("a drawing of", "a picture of", "an emoji of", "an icon of")
RELATIONS = ("left of", "right of", "above", "below", "next to")
PLURAL = ("cherries", "pancakes")
"""Names of concepts that take no article."""


@dataclass(frozen=True)
class Telling:
    """What a caption tells, and how.

    Attributes:
        things: Indices of the things that are named, in the caption's order.
        tints, sizes: Whether it says tints, and the words "small" and "big".
        relation: Word between two things; "" for "and".
        style, colour, pattern, amount: Whether it says them.
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
        thing: Index of the thing that it tells of, or None; a relation tells where the thing before it is.
        role: "name", "tint", "size", "relation", "amount", or "" for any other.
    """

    text: str
    thing: int | None = None
    role: str = ""


def caption(scene: Scene, telling: Telling | None = None, world: World | None = None) -> str:
    """Writes a caption of a scene.

    Args:
        scene: What to describe.
        telling: What it says; None: all things, tints, colour, and a pattern that is not plain.
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
            if telling.relation and last == 1:
                words += [Word(text, telling.things[0], "relation") for text in telling.relation.split()]
            else:
                words.append(Word("and" if number == last else ","))
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
        relation = generator.choices(("", true, "next to"), (0.3, 0.64, 0.06))[0]
    plain = scene.background.pattern == "plain"
    return Telling(
        tuple(indices),
        tints=generator.random() < 0.9,
        sizes=generator.random() < 0.5,
        relation=relation,
        style=generator.random() < 0.65,
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
