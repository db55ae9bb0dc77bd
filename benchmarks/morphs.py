"""Every morphing method beside every other, on pairs of the emoji world: writes docs/morphs.json.

    python benchmarks/morphs.py [--pairs 8] [--methods a,b] [--spacings even,uniform] [--frames 16] [--steps N]
        [--set METHOD.NAME=VALUE ...] [--encode-steps N] [--kept outputs/morphs] [--out docs]

Takes pairs of four kinds in turn: one drawing style; two styles of one concept; two concepts of one group, everything
else different; two groups. Options were chosen on the first four pairs and never on the others, so the page
reports the two apart. Each (pair, method) is prepared once and its frames drawn once, whichever spacing asks for them.
Results are written after each, and what is written is not run again: a run that was stopped goes
on, `--anew` starts over. The frames are kept, too, for what is measured over many morphs at once; realism by the
features of a network of photographs needs `sfumato[metrics]`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from morph_groups import DECODED, REAL, groups_of
from PIL import Image
from realism import Realism
from torch import Tensor

import sfumato
from sfumato.api.encoding import encoded
from sfumato.api.morph_plan import suited_guidance
from sfumato.api.requests import ENCODE_STEPS
from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scenes import Background, Scene, Thing
from sfumato.files import write_whole
from sfumato.images import to_images, to_pixels
from sfumato.judges.distances import load_distance
from sfumato.metrics.morph import directness, smoothness
from sfumato.metrics.psnr import psnr
from sfumato.models.base import Model
from sfumato.morphs.method import MORPHS
from sfumato.morphs.path import Ends, Frames
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.morphs.task import MorphTask


@dataclass(frozen=True)
class Pair:
    """Two scenes to morph between, and what is alike in them."""

    name: str
    kind: str
    first: Scene
    second: Scene


def portrait(concept: str, style: str, colour: str, tint: str | None = None) -> Scene:
    """One large thing on a plain background."""
    return Scene((Thing(concept, size=0.72, tint=tint),), Background(colour), style)


def prompt(scene: Scene) -> str:
    """The caption, drawing style included."""
    plain = scene.background.pattern == "plain"
    return caption(scene, Telling(tuple(range(len(scene.things))), style=True, pattern=not plain))


BURGER, BALL = Thing("burger", 0.3, 0.35, 0.46, -10), Thing("ball", 0.7, 0.68, 0.4)

PAIRS = (
    Pair("cat-dog", "same style", portrait("cat", "noto", "blue"), portrait("dog", "noto", "blue")),
    Pair("fox-styles", "two styles", portrait("fox", "flat", "green"), portrait("fox", "noto", "green")),
    Pair("lion-panda", "same class", portrait("lion", "noto", "white"), portrait("panda", "flat", "pink")),
    Pair("panda-pizza", "far classes", portrait("panda", "noto", "purple"), portrait("pizza", "flat", "yellow")),
    # Nothing was ever chosen on these
    Pair("apples", "same style", *(portrait("apple", "noto", "white", tint) for tint in ("red", "green"))),
    Pair("star-styles", "two styles", portrait("star", "noto", "blue"), portrait("star", "flat", "blue")),
    Pair("apple-berry", "same class", portrait("apple", "flat", "gray"), portrait("strawberry", "noto", "yellow")),
    Pair(
        "one-of-two", "far classes",
        *(Scene((BURGER, replace(BALL, concept=concept)), Background("green")) for concept in ("ball", "heart")),
    ),
)  # fmt: skip


def main() -> None:
    """Measures what is missing and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", default=",".join(pair.name for pair in PAIRS), help="names with commas between")
    parser.add_argument("--methods", default="", help="names with commas between; all of them")
    parser.add_argument("--spacings", default="even,uniform", help="and the method's own")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, help="denoising steps; each method's own choice")
    parser.add_argument("--encode-steps", type=int, default=ENCODE_STEPS, help="that bring the ends nearer")
    parser.add_argument("--set", nargs="*", default=[], metavar="METHOD.NAME=VALUE", help="options of a method")
    parser.add_argument("--real", type=int, default=1280, help="real images that frames are compared with")
    parser.add_argument("--anew", action="store_true", help="forget earlier results")
    parser.add_argument("--kept", type=Path, default=Path("outputs/morphs"), help="folder of the frames")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    methods = args.methods.split(",") if args.methods else list(MORPHS)
    pairs = [named(name) for name in args.pairs.split(",")]
    spacings = args.spacings.split(",")
    options = read_options(args.set)
    for name in [*spacings, *(MORPHS[method].spacing for method in methods)]:
        SPACINGS[name]  # an unknown one is an error now, not after an hour

    torch.set_num_threads(1)
    model = sfumato.load_model("emoji", device="cpu")
    settings = {
        "frames": args.frames,
        "steps": args.steps,
        "encode_steps": args.encode_steps,
        "real": args.real,
        "model": model.revision,
    }
    file = args.out / "morphs.json"
    report = {} if args.anew or not file.is_file() else json.loads(file.read_text("utf-8"))
    if report.get("settings") != settings:
        report = {"settings": settings, "runs": {}}
    realism = Realism(args.real)
    report |= {"measured_with": f"torch {torch.__version__}, one thread"}
    for pair in pairs:
        for method in methods:
            key, wanted = f"{pair.name} {method}", {*spacings, MORPHS[method].spacing}
            done = report["runs"].get(key)
            chosen, kept = options.get(method, {}), args.kept / f"{pair.name}-{method}.npz"
            same = done and wanted <= set(done["asked"]) and done["options"] == json.loads(json.dumps(chosen))
            if same and ("refused" in done or kept.is_file()):
                continue
            run = {"kind": pair.kind, "asked": sorted(wanted), "options": chosen}
            try:
                run |= measure(model, pair, method, sorted(wanted), settings, chosen, realism, kept)
            except sfumato.SfumatoError as error:
                run["refused"] = str(error)
            report["runs"][key] = run
            print(key, json.dumps(run), flush=True)
            write(args.out, report)
    report["realism"] = over_many(report["runs"], args.kept, realism, model)
    write(args.out, report)


def named(name: str) -> Pair:
    """A pair by its name."""
    for pair in PAIRS:
        if pair.name == name:
            return pair
    raise SystemExit(f"no pair {name}; there are {', '.join(pair.name for pair in PAIRS)}")


def measure(
    model: Model,
    pair: Pair,
    method: str,
    spacings: Iterable[str],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    realism: Realism,
    kept: Path,
) -> dict[str, Any]:
    """One pair by one method: prepared once, spaced several ways; the frames between the ends go to `kept`."""
    entry = MORPHS[method]
    pictures, prompts = realism.rendered([pair.first, pair.second]), (prompt(pair.first), prompt(pair.second))
    steps = settings["steps"] or entry.num_inference_steps or model.num_inference_steps
    distance, begun, before = load_distance("emoji", model), time.process_time(), model.evaluations
    clean = encoded(model, pictures, encode_steps=settings["encode_steps"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = Ends(pictures, clean, prompts, (pair.name, pair.name))
        task = MorphTask(
            model, ends, distance, torch.Generator().manual_seed(0), guidance_scale=suited_guidance(model, entry),
            num_inference_steps=steps,
        )  # fmt: skip
        path = entry.function(task, **{**model.method_options.get(method, {}), **entry.check_options(options)})
    prepared, ready = model.evaluations - before, time.process_time()
    frames = Frames(path, model.decode_latents)
    ends = frames.at([0.0, 1.0])
    found, refused = {}, {}
    for name in spacings:
        try:
            found[name] = SPACINGS[name](frames, distance, settings["frames"])
        except sfumato.SfumatoError as error:
            refused[name] = str(error)
    drawing = (time.process_time() - ready) / len(frames.drawn)
    each = (model.evaluations - before - prepared) / len(frames.drawn)

    rows, between = {}, {}
    for name, spaced in found.items():
        even = smoothness(spaced.distances)
        draws = len({0.0, 1.0, *spaced.looked})
        way = directness(spaced.distances, float(distance(ends[:1], ends[1:])))
        between[name] = frames.at(spaced.weights[1:-1])
        rows[name] = {
            "max_over_mean": round(even.max_over_mean, 3),
            "std_over_mean": round(even.std_over_mean, 3),
            "path_length": round(way.path_length, 4),
            "detour": round(way.detour, 3),
            **realism(between[name]),
            "draws": draws,
            "evaluations": round(prepared + draws * each),
            "seconds": round(ready - begun + draws * drawing, 1),
            "weights": [round(weight, 4) for weight in spaced.weights],
            "notes": list(spaced.notes),
        }
    keep(kept, between)
    shown, ceiling = to_images(ends), to_images(model.decode_latents(clean))
    sources = to_images(pictures)
    return {
        "steps": steps,
        "guidance_scale": suited_guidance(model, entry),
        "end_psnr": [similarity(*images) for images in zip(shown, sources, strict=True)],
        "ceiling_psnr": [similarity(*images) for images in zip(ceiling, sources, strict=True)],
        "prepared": prepared,
        "notes": list(path.notes),
        "spacings": rows,
        "refused_spacings": refused,
    }


def keep(file: Path, frames: Mapping[str, Tensor]) -> None:
    """Pixels in 8 bits by spacing, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part.npz")
    arrays: dict[str, Any] = {
        name: np.stack([np.asarray(image) for image in to_images(pixels)]) for name, pixels in frames.items()
    }
    np.savez_compressed(partial, **arrays)
    partial.replace(file)


def over_many(runs: Mapping[str, Mapping[str, Any]], kept: Path, realism: Realism, model: Model) -> dict[str, Any]:
    """Realism of the frames of all pairs of a group together: {group: {"method spacing": {network: figures}}}.

    Of the pairs that every method with kept frames has, so that all are compared on the same.
    """
    found: dict[str, Any] = {}
    for title, group in groups_of(runs).items():
        having = {method: [name for name in group if (kept / f"{name}-{method}.npz").is_file()] for method in MORPHS}
        methods = [method for method, names in having.items() if names]
        common = [name for name in group if all(name in having[method] for method in methods)]
        if not common:
            continue
        found[title] = {"pairs": common}
        for method in sorted(methods):
            held = [np.load(kept / f"{name}-{method}.npz") for name in common]
            for spacing in sorted(set.intersection(*(set(one.files) for one in held))):
                images = np.concatenate([one[spacing] for one in held])
                pixels = torch.cat([to_pixels(Image.fromarray(image)) for image in images])
                found[title][f"{method} {spacing}"] = realism.of_many(pixels)
                if method == "crossfade":  # the others' frames all went through it
                    found[title][f"{method} {spacing}{DECODED}"] = realism.of_many(decoded(model, pixels))
        others = realism.others(len(pixels))
        found[title][REAL + DECODED] = realism.of_many(decoded(model, others))
        found[title][REAL] = realism.of_many(others)
    return found


@torch.no_grad()
def decoded(model: Model, pixels: Tensor) -> Tensor:
    """What the autoencoder alone makes of images, (image, 3, H, W) in [-1, 1]."""
    return torch.cat([model.decode_latents(model.encode_image(one)) for one in pixels.split(8)]).clamp(-1.0, 1.0)


def similarity(image: Any, reference: Any) -> float | None:
    """PSNR, dB; None for equal images."""
    value = psnr(np.asarray(image), np.asarray(reference), data_range=255)
    return round(value, 2) if math.isfinite(value) else None


def read_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """METHOD.NAME=VALUE to options by method."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        method, _, option = name.partition(".")
        entry = MORPHS[method]
        entry.check_options({option: None} if option not in entry.parameters else {})
        found.setdefault(method, {})[option] = entry.parameters[option].parse(value)
    return found


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """The file of figures, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "morphs.json", (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
