"""Measures the embedded model: `python benchmarks/emoji_quality.py --json docs/emoji/quality.json`.

Figures, and the bars they are held against:

- `autoencoder_psnr`: mean PSNR in dB of renderings that no stage has seen (other placements and colours, held-out pairs
  too).
- `concept_top1`, `style_top1`: share of generated images in which the independent classifier sees what the caption
  says.
- `background_within`: share whose border colour (median) lies within Delta E 15 (CIE76) of the named colour.
- `heldout_concept_top1`: as `concept_top1`, on the (concept, style) pairs that were never trained on.
- `short_concept_top1`: as `concept_top1`, of captions that name the concept and nothing else, one image a concept.
- `small_...`: of captions of small drawings, one a concept, each at another place. `small_size` is the share that turns
  out small, `small_position` the share whose middle is nearest to the named place; both by the box of all that differs
  from the border's colour. The same figures of renderings are beside, as the ceiling.

All but the short captions name concept, style and background. The classifier's own accuracy on unseen renderings is
given beside, as the ceiling. Images are sampled by DDIM in fp32 weights under bf16 autocast.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from skimage.color import rgb2lab

import sfumato
from sfumato.emoji import WEIGHTS
from sfumato.emoji.autoencoder import psnr, reconstruct
from sfumato.emoji.defaults import GUIDANCE_SCALE
from sfumato.emoji.judges import load_classifier
from sfumato.emoji.pool import build_pool
from sfumato.emoji.training.data import Renderer
from sfumato.emoji.training.sampling import generate
from sfumato.emoji.training.sheets import save_sheet, to_images, to_pixels
from sfumato.emoji.world import (
    BACKGROUNDS,
    POSITIONS,
    SMALL_SCALE,
    STYLES,
    Concept,
    Scene,
    caption,
    held_out_pairs,
    load_concepts,
)


def border_distance(images: np.ndarray, scenes: list[Scene]) -> np.ndarray:
    """Delta E (CIE76) between the colour of the border and the named colour, (count,)."""
    named = np.array([BACKGROUNDS[scene.background] for scene in scenes]) / 255
    return np.linalg.norm(border_colours(images) - rgb2lab(named), axis=-1)


def border_colours(images: np.ndarray) -> np.ndarray:
    """Median colour of the two outermost pixels, CIELAB, (count, 3)."""
    ring = np.ones(images.shape[1:3], bool)
    ring[2:-2, 2:-2] = False
    return np.asarray(rgb2lab(np.median(images[:, ring], axis=1) / 255))


def placed_as_told(images: np.ndarray, scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Whether drawings are small, and whether they stand at the named place: two boolean arrays, (count,)."""
    small, there = [], []
    for image, border, scene in zip(images, border_colours(images), scenes, strict=True):
        drawn = np.linalg.norm(rgb2lab(image / 255) - border, axis=-1) > 15
        rows, columns = np.flatnonzero(drawn.sum(1) > 1), np.flatnonzero(drawn.sum(0) > 1)  # specks do not count
        if not len(rows) or not len(columns):
            small.append(False)
            there.append(False)
            continue
        (top, bottom), (left, right) = (np.array([line[0], line[-1] + 1]) / len(drawn) for line in (rows, columns))
        box = Scene(
            scene.concept, position=((left + right) / 2, (top + bottom) / 2), scale=max(bottom - top, right - left)
        )
        small.append(box.is_small)
        there.append(box.position_word == scene.position_word)
    return np.array(small), np.array(there)


@torch.no_grad()
def judge(
    classifier: Any, names: list[str], pixels: torch.Tensor, scenes: list[Scene]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the classifier sees the right concept and the right style: two boolean arrays, (count,)."""
    logits = [classifier(batch) for batch in pixels.split(64)]
    concept = torch.cat([one for one, _ in logits]).argmax(1).tolist()
    style = torch.cat([two for _, two in logits]).argmax(1).tolist()
    styles = list(STYLES)
    return (
        np.array([names[row] == scene.concept for row, scene in zip(concept, scenes, strict=True)]),
        np.array([styles[row] == scene.style for row, scene in zip(style, scenes, strict=True)]),
    )


def mark(image: np.ndarray) -> np.ndarray:
    """Puts a red frame round the image of a held-out pair, (height, width, 3)."""
    framed = image.copy()
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = (255, 0, 0)
    return framed


def order(concepts: list[Concept]) -> Callable[[tuple[str, str]], tuple[int, int]]:
    """The place of a (concept, style) pair in a sheet."""
    names, styles = [concept.name for concept in concepts], list(STYLES)
    return lambda pair: (names.index(pair[0]), styles.index(pair[1]))


def main() -> None:
    """Parses the command line, measures, and writes the figures."""
    parser = argparse.ArgumentParser(description="Measure the embedded model.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--sheets", type=Path, help="folder for sample sheets")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=300, help="the most concepts to draw, each in all styles")
    parser.add_argument("--per-held-out", type=int, default=4, help="images of each held-out pair")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    begin = time.time()
    concepts = load_concepts()
    held_out = set(held_out_pairs(concepts))
    pipeline = StableDiffusionPipeline.from_pretrained(
        arguments.weights, use_safetensors=True, torch_dtype=torch.float32
    )
    pipeline = pipeline.to(arguments.device)
    for part in (pipeline.unet, pipeline.vae):
        part.to(memory_format=torch.channels_last)
    classifier, names = load_classifier(arguments.weights / "classifier.safetensors")

    unseen = build_pool(concepts, 2, seed=31415, pairs="all")
    truth = to_pixels(unseen.images())
    output = reconstruct(pipeline.vae, truth, arguments.device)
    figures: dict[str, Any] = {"autoencoder_psnr": float(psnr(output, truth).mean())}
    right_concept, right_style = judge(classifier, names, truth, unseen.scenes)
    figures["classifier_on_renderings"] = {"concept_top1": right_concept.mean(), "style_top1": right_style.mean()}

    generator = random.Random(arguments.seed)
    chosen = concepts if len(concepts) <= arguments.limit else generator.sample(concepts, arguments.limit)
    backgrounds = list(BACKGROUNDS)
    trained = [
        Scene(concept.name, style, generator.choice(backgrounds))
        for concept in chosen
        for style in STYLES
        if (concept.name, style) not in held_out
    ]
    withheld = [
        Scene(name, style, generator.choice(backgrounds))
        for name, style in sorted(held_out)
        for _ in range(arguments.per_held_out)
    ]
    short = [Scene(concept.name) for concept in chosen]
    styles, places = list(STYLES), list(POSITIONS)
    small = [
        Scene(concept.name, styles[k % len(styles)], backgrounds[k % len(backgrounds)],
              POSITIONS[places[k % len(places)]], SMALL_SCALE)
        for k, concept in enumerate(chosen)
    ]  # fmt: skip
    scenes = trained + withheld + short + small
    plain = [caption(scene, style=False, background=False) for scene in short]
    pixels = generate(
        [caption(scene) for scene in trained + withheld] + plain + [caption(scene) for scene in small],
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        unet=pipeline.unet,
        autoencoder=pipeline.vae,
        scheduler=pipeline.scheduler,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        seed=arguments.seed,
        device=arguments.device,
    )
    images = to_images(pixels)
    right_concept, right_style = judge(classifier, names, pixels.clamp(-1, 1), scenes)
    within = border_distance(images, scenes) < 15
    count, known = len(trained), len(trained) + len(withheld)
    brief, little = slice(known, known + len(short)), slice(known + len(short), None)
    small_size, small_position = placed_as_told(images[little], small)
    renderer = Renderer()
    rendered = np.stack([np.asarray(renderer.render(scene).convert("RGB")) for scene in small])
    figures |= {
        "concept_top1": right_concept[:count].mean(),
        "style_top1": right_style[:count].mean(),
        "background_within": within[:count].mean(),
        "heldout_concept_top1": right_concept[count:known].mean(),
        "heldout_style_top1": right_style[count:known].mean(),
        "short_concept_top1": right_concept[brief].mean(),
        "small_concept_top1": right_concept[little].mean(),
        "small_style_top1": right_style[little].mean(),
        "small_background_within": within[little].mean(),
        "small_size": small_size.mean(),
        "small_position": small_position.mean(),
        "small_on_renderings": {
            name: values.mean()
            for name, values in zip(("size", "position"), placed_as_told(rendered, small), strict=True)
        },
    }
    if arguments.sheets:
        whole = list(zip(scenes, images, strict=True))[:known]
        drawn = {(scene.concept, scene.style): image for scene, image in whole[::-1]}
        cells = [mark(drawn[pair]) if pair in held_out else drawn[pair] for pair in sorted(drawn, key=order(concepts))]
        save_sheet(cells, arguments.sheets / "samples.png", columns=5 * len(STYLES), colours=256)
        save_sheet(
            images[count:known], arguments.sheets / "held-out.png", columns=3 * arguments.per_held_out, colours=256
        )
        save_sheet(images[brief], arguments.sheets / "short.png", columns=10, colours=256)
        save_sheet(images[little], arguments.sheets / "small.png", columns=10, colours=256)
        some = slice(None, None, max(1, len(truth) // 16))
        rows = np.concatenate([to_images(truth[some][:16]), to_images(output[some][:16])])
        save_sheet(rows, arguments.sheets / "autoencoder.png", columns=16, colours=256)
    figures = {
        key: round(float(value), 4)
        if not isinstance(value, dict)
        else {k: round(float(v), 4) for k, v in value.items()}
        for key, value in figures.items()
    }
    figures |= {
        "counts": {
            "concepts": len(chosen),
            "trained": count,
            "held_out": len(withheld),
            "short": len(short),
            "small": len(small),
            "autoencoder": len(unseen),
        },
        "sampling": {"sampler": "DDIM", "steps": arguments.steps, "guidance_scale": arguments.guidance},
        "seed": arguments.seed,
        "model": sfumato.load_model(arguments.weights).revision,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")}
        | {"python": platform.python_version()},
        "commit": commit(),
        "seconds": round(time.time() - begin, 1),
    }
    text = json.dumps(figures, indent=1) + "\n"
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text, encoding="utf-8")
    print(text, end="")


def commit() -> str | None:
    """The checkout's commit, with `-dirty` where files differ from it, or None outside one."""
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return run.stdout.strip() or None if run.returncode == 0 else None


if __name__ == "__main__":
    main()
