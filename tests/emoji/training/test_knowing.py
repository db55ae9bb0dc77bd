"""The probe: a text encoder that learns from it carries what a relation and a name are told of."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from sfumato.emoji.render import shipped_atlas
from sfumato.emoji.scene_captions import Telling, Word, caption_words
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import Background, Scene, Thing, World
from sfumato.emoji.training.attention import ROLES
from sfumato.emoji.training.knowing import Probe
from sfumato.emoji.training.networks import SIZES, build_text_encoder
from sfumato.emoji.training.tokenizer import Encoder, build_tokenizer


@pytest.fixture(scope="module")
def world() -> World:
    return shipped_atlas().world


def told(scene: Scene) -> list[Word]:
    return caption_words(scene, Telling((0, 1), relation=scene.relation))


def test_a_relation_learns_where_its_thing_is(world: World, tmp_path: Path) -> None:
    torch.manual_seed(0)
    draw = random.Random(0)
    tokenizer = build_tokenizer(world.concepts, tmp_path)
    encoder, probe = Encoder(tokenizer), Probe(16, world)
    text = build_text_encoder(SIZES["toy"], tokenizer)
    for weights in text.parameters():  # each version of transformers begins with others
        if weights.ndim == 2:
            torch.nn.init.normal_(weights, std=0.1)
    optimizer = torch.optim.Adam([*text.parameters(), *probe.parameters()], lr=1e-2)
    losses = []
    for _ in range(120):
        scenes = [scene for scene in (sample_scene(world, draw, things=2) for _ in range(16)) if scene.relation]
        ids, share = encoder.encode([told(scene) for scene in scenes], 3, ROLES)
        loss = probe.loss(text(ids)[0], share, scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

    names = [concept.name for concept in world.concepts]
    places = []
    for x in (0.25, 0.75):
        scene = Scene((Thing(names[0], x, 0.5, 0.4), Thing(names[1], 1 - x, 0.5, 0.4)), Background())
        ids, share = encoder.encode([told(scene)], 3, ROLES)
        with torch.no_grad():
            words = torch.einsum("t,tw->w", share[0, ROLES.index("relation"), 0], text(ids)[0][0])
            places.append(float(probe.head(words)[-2]))
    assert places[0] < places[1] - 0.05


def test_captions_that_name_nothing_ask_for_nothing(world: World) -> None:
    probe = Probe(16, world)
    embeds = torch.randn(2, 40, 16, requires_grad=True)
    loss = probe.loss(embeds, torch.zeros(2, len(ROLES), 3, 40), [])
    loss.backward()
    assert float(loss.detach()) == 0
