"""Measures the embedded model: `python benchmarks/emoji_quality.py --json docs/emoji/quality.json`.

Figures of what it draws, on captions of scenes that were never trained on, sampled by DDIM:

- `autoencoder_psnr`: dB, of renderings, combinations that are held out too.
- `pair_concepts`: share of images of two things in which the independent judge finds these two and nothing else;
  `concept_top1`: the same of one thing.
- `tint`: share of told tints that the judge confirms; `relation`: share of told relations that hold between centres.
- `style_top1`: share of told styles; `background_within`: share of plain backgrounds whose border colour (median) lies
  within Delta E 15 (CIE76) of the named colour.
- `heldout_pair`, `heldout_tint`: as `pair_concepts` and `tint`, of combinations that were held out.
- `judge_on_renderings`: the judge's own accuracy, as the ceiling.

Of its attention, on scenes of two things: `attention_auc`, `attention_auc_other`, `attention_auc_tint`, see
`sfumato.emoji.training.diffusion.measure_attention`.

`reweight_rank`: rank correlation of the factor (-1, 0, 1, 2, 3) of "many" snowflakes with the amount of snow, or of
"big" with the size of a thing, that the judge measures, in the mean over scenes; `reweight_rank_of` has both apart.

Of edits (`--parts edits --run RUN`, a run of the benchmark emoji-edit): `redraw_ratio`, the best method's mean distance
to the exact answer over that of drawing the target caption anew, on swaps, recolouring and backgrounds; `kept_psnr` of
each method, dB, outside of what the edit changes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from scipy.stats import spearmanr
from skimage.color import rgb2lab

import sfumato
from sfumato.bench.emoji_edit import REDRAWN, redraw_ratio, share
from sfumato.bench.rows import cases_tried, read_rows
from sfumato.emoji import WEIGHTS
from sfumato.emoji.render import ATLAS, Atlas, render
from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scene_judge import SceneJudge, Seen, load_scene_judge, relation_holds
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import COLOURS, Background, Scene, Thing, held_out
from sfumato.emoji.training.attention import record_maps
from sfumato.emoji.training.autoencoder import psnr, reconstruct
from sfumato.emoji.training.diffusion import Denoiser, measure_attention
from sfumato.emoji.training.judge import judged_rightly
from sfumato.emoji.training.sampling import generate
from sfumato.emoji.training.sheets import save_sheet, to_images
from sfumato.emoji.training.tokenizer import Encoder
from sfumato.images import to_pixels

PARTS = ("autoencoder", "drawing", "attention", "reweighting", "edits")
FACTORS = (-1.0, 0.0, 1.0, 2.0, 3.0)


def drawn_scenes(atlas: Atlas, count: int, seed: int) -> dict[str, list[Scene]]:
    """The scenes whose captions are drawn, by set: pairs, single things, held-out pairs and held-out tints."""
    world, draw = atlas.world, random.Random(seed)
    kept = held_out(world)
    sets: dict[str, list[Scene]] = {
        "pairs": [sample_scene(world, draw, things=2) for _ in range(count)],
        "singles": [sample_scene(world, draw, things=1) for _ in range(count)],
    }
    plain = Background()
    pairs, tints = sorted(kept.pairs), sorted(kept.tints)
    places = (Thing("", 0.3, 0.5, 0.4), Thing("", 0.7, 0.5, 0.4))
    sets["heldout pairs"] = [
        Scene(tuple(replace(t, concept=name) for t, name in zip(places, pairs[n % len(pairs)], strict=True)), plain)
        for n in range(count // 2)
    ]
    sets["heldout tints"] = [
        Scene((Thing(tints[n % len(tints)][0], tint=tints[n % len(tints)][1]),), plain)
        for n in range(count // 2 if tints else 0)
    ]
    sets["plain"] = [
        replace(scene, background=Background(list(COLOURS)[number % len(COLOURS)]))
        for number, scene in enumerate(sample_scene(world, draw) for _ in range(count // 2))
    ]
    return sets


def told(scene: Scene) -> str:
    """The caption that is drawn: things, tints, relation, style, colour, and a pattern that is not plain."""
    plain = scene.background.pattern == "plain"
    indices = tuple(range(len(scene.things)))
    return caption(scene, Telling(indices, relation=scene.relation, style=True, pattern=not plain))


def concepts_right(seen: Sequence[Seen], scenes: Sequence[Scene]) -> list[bool]:
    """Whether exactly the told things are found."""
    pairs = zip(seen, scenes, strict=True)
    return [sorted(t.concept for t in one.things) == sorted(t.concept for t in scene.things) for one, scene in pairs]


def tints_right(seen: Sequence[Seen], scenes: Sequence[Scene]) -> list[bool]:
    """Whether told tints are seen; a thing that is not found is wrong."""
    rights = []
    for one, scene in zip(seen, scenes, strict=True):
        for thing in scene.things:
            if thing.tint is not None:
                there = one.thing(thing.concept)
                rights.append(there is not None and there.tint == thing.tint)
    return rights


def relations_right(seen: Sequence[Seen], scenes: Sequence[Scene]) -> list[bool]:
    """Whether told relations hold between the centres of the things."""
    return [relation_holds(one, scene) for one, scene in zip(seen, scenes, strict=True) if scene.relation]


def border_distances(images: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Delta E (CIE76) between the median colour of the two outermost pixels and the named colour, (count,)."""
    ring = np.ones(images.shape[1:3], bool)
    ring[2:-2, 2:-2] = False
    named = np.array([COLOURS[scene.background.colour] for scene in scenes]) / 255
    return np.linalg.norm(rgb2lab(np.median(images[:, ring], axis=1) / 255) - rgb2lab(named), axis=-1)


def measure_autoencoder(
    pipeline: StableDiffusionPipeline, atlas: Atlas, judge: SceneJudge, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Renderings encoded and decoded, and what the judge makes of the renderings themselves."""
    draw = random.Random(arguments.seed + 3)
    unseen = [sample_scene(atlas.world, draw, may=True) for _ in range(arguments.scenes)]
    truth = torch.cat([render(unseen[start : start + 32], atlas)[0] for start in range(0, len(unseen), 32)])
    return {
        "autoencoder_psnr": float(psnr(reconstruct(pipeline.vae, truth), truth).mean()),
        "judge_on_renderings": judged_rightly(judge.look(truth), unseen),
    }


def measure_drawing(
    pipeline: StableDiffusionPipeline, atlas: Atlas, judge: SceneJudge, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Draws all sets, judges them, writes their sheets."""
    names = ("tokenizer", "text_encoder", "unet", "scheduler")
    parts = {"autoencoder": pipeline.vae, **{name: getattr(pipeline, name) for name in names}}
    sets = drawn_scenes(atlas, arguments.count, arguments.seed)
    seen, images = {}, {}
    for number, (name, scenes) in enumerate(sets.items()):
        texts = [told(scene) for scene in scenes]
        pixels = generate(
            texts,
            **parts,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance,
            seed=arguments.seed + number,
            device=arguments.device,
        )
        seen[name], images[name] = judge.look(pixels.clamp(-1, 1)), to_images(pixels)
        if arguments.sheets and len(scenes):
            save_sheet(images[name][:64], arguments.sheets / f"{name.replace(' ', '-')}.png", columns=8, colours=256)
    both = [name for name in ("pairs", "singles") if sets[name]]
    styles = [one.style == scene.style for name in both for one, scene in zip(seen[name], sets[name], strict=True)]
    return {
        "pair_concepts": share(concepts_right(seen["pairs"], sets["pairs"])),
        "concept_top1": share(concepts_right(seen["singles"], sets["singles"])),
        "tint": share([right for name in both for right in tints_right(seen[name], sets[name])]),
        "relation": share(relations_right(seen["pairs"], sets["pairs"])),
        "style_top1": share(styles),
        "background_within": float((border_distances(images["plain"], sets["plain"]) < 15).mean()),
        "heldout_pair": share(concepts_right(seen["heldout pairs"], sets["heldout pairs"])),
        "heldout_tint": share(tints_right(seen["heldout tints"], sets["heldout tints"])),
        "counts": {name: len(scenes) for name, scenes in sets.items()},
        "sampling": {"sampler": "DDIM", "steps": arguments.steps, "guidance_scale": arguments.guidance},
        "seed": arguments.seed,
    }


def measure_edits(run: Path) -> dict[str, Any]:
    """Edits by every method beside drawing anew, of a run of the benchmark emoji-edit."""
    rows = read_rows(run)
    common = set.intersection(*cases_tried(rows).values())  # a run may be under way
    rows = [row for row in rows if row["case"] in common]
    best, ratio = redraw_ratio(rows)
    edits = [row for row in rows if row["status"] == "done" and row["kind"] in REDRAWN]
    return {
        "redraw_ratio": ratio,
        "best_method": best,
        "distance": means_of(edits, "target_distance"),
        "inside_distance": means_of(edits, "inside_distance"),
        "kept_psnr": means_of(edits, "kept_psnr"),
        "edits": len({row["case"] for row in edits}),
    }


def means_of(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """The mean of a figure by configuration, where there is one."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["figures"][name] is not None:
            values.setdefault(row["configuration"], []).append(row["figures"][name])
    return {configuration: float(np.mean(own)) for configuration, own in values.items()}


def measure_reweighting(folder: Path, atlas: Atlas, judge: SceneJudge, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rank correlation of words' factor with what the judge measures, in the mean over scenes."""
    model, draw, world = sfumato.load_model(str(folder)), random.Random(arguments.seed + 2), atlas.world
    ranks: dict[str, list[float]] = {"snow": [], "size": []}
    for number in range(arguments.reweight):
        scene = sample_scene(world, draw, things=1)
        snow = number % 2 == 0
        ground = Background("blue", pattern="snow" if snow else "plain", amount=0.85 if snow else 0.0, seed=number)
        name = scene.things[0].concept
        scene = Scene((replace(scene.things[0], tint=None, size=0.5 if snow else 0.72),), ground, scene.style)
        word = "many" if snow else "big"
        prompt = caption(scene, Telling((0,), sizes=not snow, pattern=snow))
        (source,), _ = render([scene], atlas)
        measured = []
        for factor in FACTORS:
            result = sfumato.edit(
                model,
                source,
                source_prompt=prompt,
                target_prompt=prompt,
                method="prompt-to-prompt",
                num_inference_steps=arguments.steps,
                guidance_scale=arguments.guidance,
                weights={word: factor},
            )
            (seen,) = judge.look(to_pixels(result.image))
            thing = seen.thing(name)
            measured.append(seen.amount if snow else 0.0 if thing is None else thing.area)
        rank = spearmanr(FACTORS, measured).statistic
        ranks["snow" if snow else "size"].append(0.0 if np.isnan(rank) else float(rank))
    return {
        "reweight_rank": float(np.mean([rank for own in ranks.values() for rank in own])),
        "reweight_rank_of": {name: float(np.mean(own)) for name, own in ranks.items() if own},
        "reweight_steps": arguments.steps,
    }


def rounded(value: Any) -> Any:
    """Figures to four digits, in dictionaries too."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(words: list[str] | None = None) -> dict[str, Any]:
    """The command; returns the figures."""
    parser = argparse.ArgumentParser(description="Measure the embedded model, or another model of scenes.")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=WEIGHTS,
        help="the model, with judge.safetensors and emoji-clip.safetensors",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:-1], help="what is measured")
    parser.add_argument("--atlas", type=Path, default=ATLAS)
    parser.add_argument("--count", type=int, default=120, help="captions of each set; half as many that are held out")
    parser.add_argument("--scenes", type=int, default=200, help="scenes for attention and the autoencoder")
    parser.add_argument("--reweight", type=int, default=20, help="scenes for re-weighting")
    parser.add_argument("--run", type=Path, help="for the part edits: folder of a run of sfumato bench emoji-edit")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="keeps the other parts' figures of the same model")
    parser.add_argument("--sheets", type=Path, help="folder of sheets")
    arguments = parser.parse_args(words)
    if ("edits" in arguments.parts) != (arguments.run is not None):
        parser.error("the part edits and --run go together: it reads a run of sfumato bench emoji-edit")
    begin = time.time()
    figures: dict[str, Any] = {"model": sfumato.load_model(str(arguments.folder)).revision}
    if arguments.json and arguments.json.is_file():
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
        figures = before if before.get("model") == figures["model"] else figures
    pipeline = StableDiffusionPipeline.from_pretrained(arguments.folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.to(arguments.device)
    atlas, judge = Atlas(arguments.atlas), load_scene_judge(arguments.folder / "judge.safetensors")
    for part in arguments.parts:
        if part == "autoencoder":
            measured = measure_autoencoder(pipeline, atlas, judge, arguments)
        elif part == "drawing":
            measured = measure_drawing(pipeline, atlas, judge, arguments)
        elif part == "attention":
            record_maps(pipeline.unet)
            denoiser, encoder = Denoiser(pipeline.unet, pipeline.text_encoder), Encoder(pipeline.tokenizer)
            areas = measure_attention(denoiser, encoder, atlas, pipeline.vae, count=arguments.scenes)
            names = {"auc_own": "attention_auc", "auc_other": "attention_auc_other", "auc_tint": "attention_auc_tint"}
            measured = {names[name]: area for name, area in areas.items()}
        elif part == "reweighting":
            measured = measure_reweighting(arguments.folder, atlas, judge, arguments)
        else:
            measured = measure_edits(arguments.run)
        figures |= rounded(measured)
        figures["seconds"] = {**figures.get("seconds", {}), part: round(time.time() - begin)}
        begin = time.time()
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    return figures


if __name__ == "__main__":
    main()
