"""The scenes of the emoji benchmarks, drawn by a seed, and their renderings, which are shipped.

    python -m sfumato.bench.emoji_scenes

renders `emoji_edit.png`, and `emoji_styles.png` (every concept in every style), anew; it needs `resvg-py` and the emoji
drawings, see `sfumato.emoji.training.data`. The benchmarks read the shipped images and need neither.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sfumato.emoji.world import (
    BACKGROUNDS,
    OPENINGS,
    POSITIONS,
    STYLES,
    Concept,
    Scene,
    caption,
    held_out_pairs,
    load_concepts,
    relatives,
)
from sfumato.images import load_image

ATLAS = Path(__file__).with_name("emoji_edit.png")
SIZE = 64
PER_KIND = 20
TEST_SEED = 2024
HELD_OUT_PER_KIND = 3
SMALL = 0.54
PALE = 0.5


@dataclass(frozen=True)
class EditCase:
    """An edit with an exact answer.

    Attributes:
        kind: One of `KINDS`.
        source, target: The scenes.
        source_prompt, target_prompt: Their captions.
        weights: For a re-weighting, factor by word; else empty.
        seen: Whether the model was trained on the source's (concept, style).
    """

    kind: str
    source: Scene
    target: Scene
    source_prompt: str
    target_prompt: str
    weights: tuple[tuple[str, float], ...] = ()
    seen: bool = True


def draw_cases(seed: int = TEST_SEED, per_kind: int = PER_KIND) -> list[EditCase]:
    """Draws the cases of a split: all of the first kind, then of the second, ...

    Args:
        seed: `TEST_SEED` for the benchmark; any other for tuning.
        per_kind: How many of each kind; about one in seven starts from a (concept, style) that was held out.
    """
    generator, concepts = random.Random(seed), load_concepts()
    by_name = {concept.name: concept for concept in concepts}
    held_out = held_out_pairs(concepts)
    unseen = set(held_out)
    cases = []
    for kind, change in KINDS.items():
        for number in range(per_kind):
            if number < per_kind * HELD_OUT_PER_KIND // PER_KIND:
                name, style = generator.choice(held_out)
            else:
                name, style = generator.choice(concepts).name, generator.choice(list(STYLES))
                while (name, style) in unseen:
                    style = generator.choice(list(STYLES))
            scene = Scene(name, style, generator.choice(list(BACKGROUNDS)))
            opening = generator.choice(OPENINGS) if generator.random() < 0.5 else ""
            case = change(generator, concepts, by_name[name], scene, opening)
            cases.append(replace(case, kind=kind, seen=(name, style) not in unseen))
    return cases


def render_atlas(cases: Sequence[EditCase]) -> Image.Image:
    """All sources and targets, rendered: two tiles a case, side by side, ten cases a row.

    Raises:
        sfumato.emoji.training.data.DataError: The drawings cannot be had.
    """
    from sfumato.emoji.training.data import Renderer

    renderer, rows = Renderer(), -(-len(cases) // 10)
    atlas = Image.new("RGB", (20 * SIZE, rows * SIZE))
    for place, case in enumerate(cases):
        for side, scene in enumerate((case.source, case.target)):
            atlas.paste(renderer.render(scene, size=SIZE).convert("RGB"), _corner(place, side))
    return atlas


def read_atlas(place: int) -> tuple[Image.Image, Image.Image]:
    """Source and target of a case of the test split, from the shipped renderings."""
    atlas, tiles = load_image(ATLAS).image, []
    for side in (0, 1):
        x, y = _corner(place, side)
        tiles.append(atlas.crop((x, y, x + SIZE, y + SIZE)))
    return tiles[0], tiles[1]


def _corner(place: int, side: int) -> tuple[int, int]:
    return (2 * (place % 10) + side) * SIZE, place // 10 * SIZE


STYLES_ATLAS = Path(__file__).with_name("emoji_styles.png")
CONCEPTS_A_ROW = 5


def style_scenes() -> list[list[Scene]]:
    """The same images in every style: for each concept, one scene a style, in the order of `STYLES`."""
    generator = random.Random(TEST_SEED)
    plain = [Scene(concept.name, background=generator.choice(list(BACKGROUNDS))) for concept in load_concepts()]
    return [[replace(scene, style=style) for style in STYLES] for scene in plain]


def render_styles() -> Image.Image:
    """All of `style_scenes`, five a row, side by side in their styles."""
    from sfumato.emoji.training.data import Renderer

    renderer, scenes = Renderer(), style_scenes()
    rows = -(-len(scenes) // CONCEPTS_A_ROW)
    atlas = Image.new("RGB", (CONCEPTS_A_ROW * len(STYLES) * SIZE, rows * SIZE))
    for place, of_styles in enumerate(scenes):
        for column, scene in enumerate(of_styles):
            atlas.paste(renderer.render(scene, size=SIZE).convert("RGB"), _style_corner(place, column))
    return atlas


def read_styles() -> list[list[Image.Image]]:
    """The shipped renderings of `style_scenes`."""
    atlas, found = load_image(STYLES_ATLAS).image, []
    for place in range(len(style_scenes())):
        corners = [_style_corner(place, column) for column in range(len(STYLES))]
        found.append([atlas.crop((x, y, x + SIZE, y + SIZE)) for x, y in corners])
    return found


def _style_corner(place: int, column: int) -> tuple[int, int]:
    return (place % CONCEPTS_A_ROW * len(STYLES) + column) * SIZE, place // CONCEPTS_A_ROW * SIZE


Change = Callable[[random.Random, Sequence[Concept], Concept, Scene, str], EditCase]


def _case(source: Scene, target: Scene, opening: str, *, background: bool = True) -> EditCase:
    words = caption(source, opening=opening, background=background)
    return EditCase("", source, target, words, caption(target, opening=opening))


def _other(generator: random.Random, choices: Sequence[str], present: str) -> str:
    return generator.choice([choice for choice in choices if choice != present])


def _concept(near: bool) -> Change:
    def change(
        generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
    ) -> EditCase:
        strangers = [other for other in concepts if other.group != concept.group]
        others = relatives(concept, concepts) if near else strangers
        return _case(scene, replace(scene, concept=generator.choice(others).name), opening)

    return change


def _style(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    return _case(scene, replace(scene, style=_other(generator, list(STYLES), scene.style)), opening)


def _background(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    return _case(scene, replace(scene, background=_other(generator, list(BACKGROUNDS), scene.background)), opening)


def _attribute(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    if generator.random() < 0.5:  # add a background to a caption that names none
        plain = replace(scene, background="white")
        target = replace(scene, background=_other(generator, list(BACKGROUNDS), "white"))
        return _case(plain, target, opening, background=False)
    place = POSITIONS[_other(generator, list(POSITIONS), "center")]
    return _case(replace(scene, scale=SMALL, position=place), scene, opening)  # drop "small" and "on the left"


def _size(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    small = replace(scene, scale=SMALL)
    return _case(scene, small, opening) if generator.random() < 0.7 else _case(small, scene, opening)


def _position(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    here = _other(generator, list(POSITIONS), "center")
    there = _other(generator, [word for word in POSITIONS if word != "center"], here)
    small = replace(scene, scale=SMALL, position=POSITIONS[here])
    return _case(small, replace(small, position=POSITIONS[there]), opening)


def _two(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    changes = generator.sample([_concept(True), _style, _background], 2)
    first = changes[0](generator, concepts, concept, scene, opening).target
    second = changes[1](generator, concepts, concept, scene, opening).target
    both = {
        name: getattr(second, name) if getattr(second, name) != getattr(scene, name) else getattr(first, name)
        for name in ("concept", "style", "background")
    }
    return _case(scene, replace(scene, **both), opening)


def _reweight(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    scene = replace(scene, background=_other(generator, list(BACKGROUNDS), "white"))
    pale = tuple(round(PALE * value + (1 - PALE) * 250) for value in BACKGROUNDS[scene.background])
    case = _case(replace(scene, background_rgb=(pale[0], pale[1], pale[2])), scene, opening)
    return replace(case, weights=((scene.background, 3.0),))


def _none(
    generator: random.Random, concepts: Sequence[Concept], concept: Concept, scene: Scene, opening: str
) -> EditCase:
    return _case(scene, scene, opening)


KINDS: dict[str, Change] = {
    "concept-near": _concept(True),
    "concept-far": _concept(False),
    "style": _style,
    "background": _background,
    "attribute": _attribute,
    "size": _size,
    "position": _position,
    "two-edits": _two,
    "re-weight": _reweight,
    "none": _none,
}

if __name__ == "__main__":
    render_atlas(draw_cases()).save(ATLAS, optimize=True)
    render_styles().save(STYLES_ATLAS, optimize=True)
