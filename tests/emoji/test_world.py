"""The emoji world: scenes, captions, the held-out split. Needs neither network nor weights."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from sfumato.emoji import EXAMPLES
from sfumato.emoji.world import (
    BACKGROUND_JITTER,
    BACKGROUNDS,
    STYLES,
    Scene,
    caption,
    held_out_pairs,
    load_concepts,
    relatives,
    sample_caption,
    sample_scene,
)


def test_caption_names_what_it_is_asked_to() -> None:
    scene = Scene("dog face", "noto", "blue")
    assert caption(scene) == "a dog face in noto style on a blue background"
    assert caption(scene, style=False, background=False) == "a dog face"
    assert caption(scene, opening="a drawing of", background_first=True) == (
        "a drawing of a dog face on a blue background in noto style"
    )


def test_caption_of_a_small_drawing_says_where_it_stands() -> None:
    scene = Scene("owl", "flat", "red", position=(0.31, 0.5), scale=0.5)
    assert caption(scene, style=False, background=False) == "a small owl on the left"
    assert caption(scene, style=False, background=False, placement=False) == "an owl"


def test_sampled_captions_are_reproducible_and_name_the_concept() -> None:
    concepts = load_concepts()
    generator, again = random.Random(3), random.Random(3)
    for concept in concepts:
        scene = sample_scene(concept, "twemoji", generator)
        assert scene == sample_scene(concept, "twemoji", again)
        text = sample_caption(scene, generator)
        assert text == sample_caption(scene, again)
        assert concept.name in text
        assert all(
            abs(a - b) <= BACKGROUND_JITTER for a, b in zip(scene.colour, BACKGROUNDS[scene.background], strict=True)
        )


@pytest.mark.parametrize(
    "wrong", [{"style": "oil"}, {"background": "plaid"}, {"position": (0.5, 1.5)}, {"scale": 0.0}, {"scale": 2.0}]
)
def test_impossible_scenes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        Scene("cat face", **wrong)  # type: ignore[arg-type]


def test_held_out_pairs_are_stable_and_spare_each_concept_three_styles() -> None:
    concepts = load_concepts()
    pairs = held_out_pairs(concepts)
    assert pairs == held_out_pairs(list(reversed(concepts)))
    assert len(pairs) == 60
    assert len({name for name, _ in pairs}) == len(pairs)
    assert ("pizza", "noto") in pairs
    drawn = held_out_pairs(concepts, seed=1)
    assert drawn == held_out_pairs(list(reversed(concepts)), seed=1) != pairs
    assert len(drawn) == round(0.05 * len(concepts) * len(STYLES)) == len({name for name, _ in drawn})


def test_relatives_are_of_the_subgroup_or_else_of_the_group() -> None:
    concepts = load_concepts()
    named = {concept.name: concept for concept in concepts}
    cats = relatives(named["cat face"], concepts)
    assert named["dog face"] in cats
    assert named["frog"] not in cats  # an animal, but no mammal
    assert named["cat face"] not in cats
    assert all(relatives(concept, concepts) for concept in concepts)
    alone = next(c for c in concepts if sum(other.subgroup == c.subgroup for other in concepts) == 1)
    assert {other.group for other in relatives(alone, concepts)} == {alone.group}


def test_examples_are_of_trained_pairs_and_say_what_they_show() -> None:
    names, held_out = {concept.name for concept in load_concepts()}, set(held_out_pairs(load_concepts()))
    entries = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    assert len(entries) >= 10
    for entry in entries:
        assert (EXAMPLES / entry["file"]).is_file()
        assert entry["concept"] in names
        assert (entry["concept"], entry["style"]) not in held_out
        scene = Scene(entry["concept"], entry["style"], entry["background"], tuple(entry["position"]), entry["scale"])
        assert entry["prompt"] == caption(scene)


def test_importing_the_world_and_the_data_loads_nothing_heavy() -> None:
    code = (
        "import sys, sfumato.emoji.world, sfumato.emoji.training.data\n"
        "print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
