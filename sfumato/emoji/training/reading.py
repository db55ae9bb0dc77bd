"""Which words the network reads: how much its loss rises when a caption says something else."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL

from sfumato.emoji.render import Atlas
from sfumato.emoji.scene_captions import RELATIONS, Telling, Word, caption_words
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import COLOURS, TINTS, Scene
from sfumato.emoji.training.networks import build_scheduler
from sfumato.emoji.training.pool import MOST_THINGS, encode_scenes
from sfumato.emoji.training.tokenizer import Encoder

TIMES = (600, 750, 900, 980)
PURE = (980,)
"""Time at which runs begin, with noise alone: what is read there decides what is drawn and where."""

KINDS = ("style", "relation", "tint", "colour", "name")


def _exchange(kind: str, scene: Scene, telling: Telling, atlas: Atlas) -> list[Word] | None:
    """The caption with every word of a kind exchanged for another one, or None where it has none."""
    if kind == "style":
        others = [style for style in atlas.world.styles if style != scene.style]
        return caption_words(replace(scene, style=others[0]), telling) if others and telling.style else None
    if kind == "relation":
        opposite = dict(zip(RELATIONS[:4], (RELATIONS[1], RELATIONS[0], RELATIONS[3], RELATIONS[2]), strict=True))
        if not telling.relation:
            return None
        return caption_words(scene, replace(telling, relation=opposite[telling.relation]))
    if kind == "colour":
        other = next(name for name in COLOURS if name != scene.background.colour)
        return caption_words(replace(scene, background=replace(scene.background, colour=other)), telling)
    if kind == "tint":
        if all(thing.tint is None for thing in scene.things):
            return None
        tints = list(TINTS)
        things = tuple(
            thing if thing.tint is None else replace(thing, tint=tints[(tints.index(thing.tint) + 2) % len(tints)])
            for thing in scene.things
        )
        return caption_words(replace(scene, things=things), telling)
    names = [concept.name for concept in atlas.world.concepts]
    renamed = {name: names[(number + 5) % len(names)] for number, name in enumerate(names)}
    things = tuple(replace(thing, concept=renamed[thing.concept], tint=None) for thing in scene.things)
    return caption_words(replace(scene, things=things), replace(telling, tints=False))


@torch.no_grad()
def measure_reading(
    model: Any, encoder: Encoder, atlas: Atlas, autoencoder: AutoencoderKL, *, count: int, seed: int = 4242
) -> dict[str, float]:
    """How much the error of the velocity rises, on unseen scenes of two things, when words of a kind are exchanged.

    Returns:
        "reads_style" and so on, each in thousandths of the squared error, the mean over the times 600 to 980; and
        "begins_with_style" and so on, of noise alone.
    """
    draw = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(atlas.world, draw, things=2)
        if scene.relation:
            scenes.append(scene)
    latents, _ = encode_scenes(scenes, atlas, autoencoder)
    alpha_bars = build_scheduler().alphas_cumprod
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)

    def errors(captions: list[list[Word]], rows: list[int], *, pure: bool = False) -> torch.Tensor:
        ids, _ = encoder.encode(captions, MOST_THINGS, ("name",))
        embeds = model.text_encoder(ids.to(latents.device))[0]
        total = torch.zeros(len(rows))
        times = PURE if pure else TIMES
        for t in times:
            a = alpha_bars[t]
            clean, eps = latents[rows], noise[rows]
            noisy = eps if pure else a.sqrt() * clean + (1 - a).sqrt() * eps
            target = (a.sqrt() * noisy - clean) / (1 - a).sqrt()
            for start in range(0, len(rows), 16):
                part = slice(start, start + 16)
                out = model.unet(noisy[part], t, embeds[part]).sample
                total[part] += (out - target[part]).square().mean((1, 2, 3)).cpu() / len(times)
        return total

    told = [Telling((0, 1), relation=scene.relation, style=True) for scene in scenes]
    as_told = [caption_words(scene, telling) for scene, telling in zip(scenes, told, strict=True)]
    found = {"error": float(errors(as_told, list(range(count))).mean())}
    for kind in KINDS:
        changed = [_exchange(kind, scene, telling, atlas) for scene, telling in zip(scenes, told, strict=True)]
        rows = [row for row, words in enumerate(changed) if words is not None]
        if rows:
            for name, pure in (("reads", False), ("begins_with", True)):
                wrong = errors([words for words in changed if words is not None], rows, pure=pure)
                right = errors([words for row, words in enumerate(as_told) if row in rows], rows, pure=pure)
                found[f"{name}_{kind}"] = 1000 * float((wrong - right).mean())
    return found
