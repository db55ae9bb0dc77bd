"""Morphs, measured as in the papers; these use one name for different measures, so each column says which.

DiffMorpher (Zhang et al., 2024, https://arxiv.org/abs/2312.07409): PPL is the sum and PDV the variance of the distances
of neighbouring frames, over 17 frames; FID compares the input images with two frames of each morph drawn at random,
over ten draws. IMPUS (Yang et al., 2024, https://arxiv.org/abs/2311.06792): PPL is a mean of finite differences,
d(F(a), F(a + 1e-4)) / 1e-8, over 50 weights (with `--set finite_differences=true`, as it costs 100 frames).
Published numbers are of LPIPS (AlexNet) at 512 pixels and of Inception's features; the settings name those used here.

Pairs of emoji in four kinds, or those of `pairs.json` in `--data`: a list of {"first", "second"} with paths inside the
folder, and optional "prompts": a list of one for both images, or of two. Images of other proportions than the model's
size are refused, unless `--set fit=crop` (or pad, resize) is given. A configuration is a method and a
spacing, `impus/uniform`; `--inversions` names spacings, by default each method's own and even weights.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from PIL import Image

from sfumato import checks
from sfumato.api.cost import measured
from sfumato.api.encoding import encoded
from sfumato.api.morph_plan import suited_guidance, suited_steps
from sfumato.api.requests import ENCODE_STEPS
from sfumato.bench.benchmark import Case, Configuration, Measure, NotApplicable, Outcome, Seed, Steps
from sfumato.bench.data import path_inside, read_entries, read_objects
from sfumato.bench.editing import QUIET
from sfumato.bench.scenes import TEST_SEED, portraits, rendered
from sfumato.bench.sets import LEAST, feature_networks, set_features
from sfumato.emoji.render import shipped_atlas
from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scenes import Scene, World
from sfumato.errors import ImageError
from sfumato.images import Fit, fit_image, load_image, to_images, to_pixels
from sfumato.images.film_strip import film_strip
from sfumato.judges.distances import load_distance
from sfumato.metrics.frechet import frechet_distance
from sfumato.metrics.morph import diffmorpher_measures, directness, perceptual_path_length, smoothness
from sfumato.metrics.psnr import psnr
from sfumato.morphs.method import MORPHS
from sfumato.morphs.path import Ends, Frames
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.morphs.task import MorphTask
from sfumato.options import Option

if TYPE_CHECKING:
    from sfumato.models.base import Model

NUM_FRAMES = 17
PER_KIND = 6
DRAWS = 10
HIGHEST_PSNR = 50.0
KINDS = ("same style", "two styles", "same class", "far classes")
MEASURES = (
    Measure("max_over_mean", "largest step / mean", "lower", "1 is perfectly even.", "keep", 2),
    Measure("ppl", "PPL (sum)", "lower", "DiffMorpher's: sum of the distances of neighbouring frames.", "edit", 3),
    Measure("pdv", "PDV (variance) x 1000", "lower", "DiffMorpher's: variance of these distances.", "", 3),
    Measure("detour", "path / end to end", "lower", "Length of the path over the distance of its ends."),
    Measure("ppl_differences", "PPL (differences)", "lower", "Of IMPUS, by finite differences.", "", 1),
    Measure("end_psnr", "ends come back, dB", "higher", "The worse end against its image, at most 50.", "", 1),
    Measure("evaluations", "evaluations", "lower", "Network evaluations, adaptation and search included.", "", 0),
    Measure("seconds", "seconds", "lower", "Wall-clock time of one morph.", "", 1),
    Measure("memory_gb", "memory, GB", "lower", "Peak memory of the process (of the device on a GPU)."),
)  # fmt: skip


@dataclass
class Morphs:
    """The benchmark; see the module.

    Attributes:
        data: Folder of `pairs.json`; None: pairs of emoji.
        fit: What may be done with images of the data that do not have the proportions of the model's size.
        distance: Name of the distance, see `load_distance`; None: the best that is here.
        finite_differences: Whether IMPUS's PPL is measured too.
        steps, seed: Of every morph; None: each method's own number of steps.
        encode_steps: Of the two images, see `sfumato.api.encoding`.

    Raises:
        UsageError: `pairs.json` is missing or damaged.
    """

    data: str | Path | None = None
    fit: Fit | None = None
    distance: str | None = None
    finite_differences: bool = False
    steps: Steps = None
    seed: Seed = 0
    encode_steps: Annotated[
        int, Option("optimisation steps that bring the autoencoder closer to the two images; 0 is off", low=0)
    ] = ENCODE_STEPS
    name: str = field(default="morphs", init=False)
    title: str = field(default="Morphs", init=False)
    about: str = field(default=(__doc__ or "").partition("\n\n")[2], init=False)
    measures: tuple[Measure, ...] = field(default=MEASURES, init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.data is not None:
            _ = self._pairs

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "data": "emoji" if self.data is None else self._pairs[1],
            "fit": self.fit,
            "frames": NUM_FRAMES,
            "distance": self.distance or "the best there is: emoji for the emoji model",
            "finite differences": self.finite_differences,
            "steps": self.steps,
            "seed": self.seed,
            "encode steps": self.encode_steps,
        }

    @cached_property
    def _pairs(self) -> tuple[list[dict[str, Any]], str]:
        """The pairs of the data, all checked, and the fingerprint of their file."""
        file = Path(str(self.data)) / "pairs.json"
        remedy = (
            "it must be a list of objects with first, second (paths inside the folder) and perhaps prompts (a list)"
        )
        entries, fingerprint = read_entries(file, remedy)
        return read_objects(entries, _PAIR, file, remedy, optional={"prompts": ["", ""]}), fingerprint

    def cases(self) -> Sequence[Case]:
        if self.data is not None:
            return [
                Case(f"{k:04d}", "all", one, f"{one['first']} → {one['second']}")
                for k, one in enumerate(self._pairs[0])
            ]
        return [
            Case(f"{k:02d}-{kind.replace(' ', '-')}", kind, ends, " → ".join(_prompt(end) for end in ends))
            for k, (kind, ends) in enumerate(emoji_pairs())
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        for name in inversions:
            _ = SPACINGS[name]  # raises for an unknown one
        return [
            Configuration(name, spacing)
            for name in (methods or list(MORPHS))
            for spacing in (inversions or dict.fromkeys([MORPHS[name].spacing, "even"]))
        ]

    def prepare(self, model: Model) -> None:
        _ = shipped_atlas()

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        entry, spacing = MORPHS[configuration.method], SPACINGS[configuration.inversion]
        images, prompts = self._case(case, model)
        pixels = torch.cat([to_pixels(image) for image in images])
        distance = load_distance(self.distance, model)
        latents = encoded(model, pixels, encode_steps=self.encode_steps)
        with measured(model) as cost:
            task = MorphTask(
                model, Ends(pixels, latents, prompts, (case.name, case.name)), distance,
                torch.Generator().manual_seed(self.seed), guidance_scale=suited_guidance(model, entry),
                num_inference_steps=self.steps or suited_steps(model, entry), watch=QUIET,
            )  # fmt: skip
            options = {**model.method_options.get(configuration.method, {}), **configuration.options}
            path = entry.function(task, **options)
            frames = Frames(path, model.decode_latents)
            if path.weights is not None and configuration.inversion != "even":
                raise NotApplicable(f"{configuration.method} draws a fixed tree of frames")
            spaced = spacing(frames, distance, NUM_FRAMES)
            drawn = frames.at(spaced.weights)
        ends = float(distance(drawn[:1], drawn[-1:]))
        steps = smoothness(spaced.distances)
        sums = diffmorpher_measures(spaced.distances, num_frames=len(spaced.weights))
        back = [_psnr(*both) for both in zip(to_images(drawn[[0, -1]]), images, strict=True)]
        figures: dict[str, float | int | None] = {
            "max_over_mean": steps.max_over_mean,
            "ppl": sums.ppl,
            "pdv": 1000 * sums.pdv,
            "detour": directness(spaced.distances, ends).detour,
            "end_psnr": min(*back, HIGHEST_PSNR),
            "evaluations": cost.evaluations,
            "seconds": round(cost.seconds, 2),
            "memory_gb": round(cost.peak_memory / 2**30, 3),
        }
        if self.finite_differences and path.weights is None:
            alphas = np.random.default_rng(self.seed).random(50) * (1 - 1e-4)
            figures["ppl_differences"] = perceptual_path_length(frames, distance, alphas.tolist()).mean
        shown = to_images(drawn)
        middle = {f"frame-{k:02d}": shown[k] for k in range(1, len(shown) - 1)}
        strip = film_strip(shown, [f"{weight:.3f}" for weight in spaced.weights], columns=6, tile=80)
        pictures = {"result": strip, "first": images[0], "last": images[1], **middle}
        return Outcome(figures, pictures, (*path.notes, *spaced.notes))

    def _case(self, case: Case, model: Model) -> tuple[list[Image.Image], tuple[str, str]]:
        if isinstance(case.data, dict):
            folder, prompts = Path(str(self.data)), case.data["prompts"]
            opened = [load_image(path_inside(folder, case.data[side])).image for side in ("first", "second")]
            return [self._fitted(image, model) for image in opened], (prompts[0], prompts[-1])
        first, second = case.data
        images = rendered([_scene(first), _scene(second)], shipped_atlas())
        return images, (_prompt(first), _prompt(second))

    def _fitted(self, image: Image.Image, model: Model) -> Image.Image:
        """An image at the model's size: scaled where it has its proportions, else as the user allowed."""
        height, width = model.sample_size
        if image.width * height == image.height * width:
            return image.resize((width, height), Image.Resampling.BICUBIC)
        if self.fit is None:
            raise ImageError(
                f"the image has {image.width}x{image.height} pixels, and morphs are measured at {width}x{height}: give"
                " images of these proportions, or let them be fitted with --set fit=crop, pad or resize"
            )
        return fit_image(image, multiple=1, size=(width, height), fit=self.fit).image

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        """DiffMorpher's FID: the inputs against two frames of each morph drawn at random, the mean of ten draws."""
        done = [row for row in rows if row["status"] == "done"]
        if 2 * len(done) < LEAST:
            return {}
        generator, found = random.Random(self.seed), {}
        inputs = [folder / row["pictures"][side] for row in done for side in ("first", "last")]
        inner = [[folder / path for role, path in row["pictures"].items() if role.startswith("frame-")] for row in done]
        for name, network in feature_networks().items():
            real, values = set_features(inputs, network), []
            for _ in range(DRAWS):
                drawn = [path for paths in inner for path in generator.sample(paths, 2)]
                values.append(frechet_distance(real, set_features(drawn, network)))
            found[f"FID of inputs and frames ({name})"] = float(np.mean(values))
        return found


_PAIR: dict[str, checks.Check] = {
    "first": checks.text,
    "second": checks.text,
    "prompts": lambda name, value: checks.listed(name, value, checks.text, fewest=1, most=2),
}

Place = tuple[int, int]
"""An image among `portraits`: which concept, and which style."""


def emoji_pairs() -> list[tuple[str, tuple[Place, Place]]]:
    """Pairs of portraits, `PER_KIND` of each kind, fixed by the seed of the test split."""
    generator, world = random.Random(TEST_SEED), shipped_atlas().world
    places = [(place, style) for place in range(len(world.concepts)) for style in range(len(world.styles))]
    found: list[tuple[str, tuple[Place, Place]]] = []
    for kind in KINDS:
        for _ in range(PER_KIND):
            first = generator.choice(places)
            found.append((kind, (first, generator.choice([one for one in places if _suits(kind, world, first, one)]))))
    return found


def _suits(kind: str, world: World, first: Place, second: Place) -> bool:
    """Whether two portraits are a pair of the kind."""
    one, other = (world.concepts[place] for place, _ in (first, second))
    same_style, alike = first[1] == second[1], one.kind == other.kind and one != other
    return {
        "same style": same_style and alike,
        "two styles": not same_style and one == other,
        "same class": not same_style and alike,
        "far classes": one.kind != other.kind,
    }[kind]


def _scene(place: Place) -> Scene:
    return _portraits()[place[0]][place[1]]


def _prompt(place: Place) -> str:
    return caption(_scene(place), Telling((0,), style=True))


@cache
def _portraits() -> list[list[Scene]]:
    return portraits(shipped_atlas().world)


def _psnr(image: Image.Image, reference: Image.Image) -> float:
    return psnr(np.asarray(image), np.asarray(reference), data_range=255)
