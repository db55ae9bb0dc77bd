"""EmojiEdit: edits whose exact answer can be rendered.

A photograph has no true "same dog, other drawing style"; the emoji world has, since its images are rendered from
scenes. So the distance to the right answer is measured, not estimated from text agreement and background preservation.

200 edits of rendered images, 20 of each of 10 kinds, fixed by a seed; one source in seven is of a (concept, style)
pair that the model never saw. The words of both captions are the model's own grammar. For `re-weight` the prompt stays,
a pale background is to become its full colour, and methods without word weights do not apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.bench.benchmark import Case, Configuration, Measure, NotApplicable, Outcome, Seed, Steps
from sfumato.bench.editing import HIGHEST_PSNR, changed_region, edit_configurations, edited, kept_psnr, price
from sfumato.bench.emoji_scenes import TEST_SEED, EditCase, draw_cases, read_atlas
from sfumato.edits.method import METHODS
from sfumato.emoji.world import BACKGROUNDS
from sfumato.images import to_images, to_pixels
from sfumato.metrics.psnr import psnr

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.models.base import Model

ABOUT = (__doc__ or "").partition("\n\n")[2]
BACKGROUND_WITHIN = 15.0
REFERENCES = ("unedited", "autoencoder")


@dataclass
class EmojiEdit:
    """The benchmark; see the module.

    Attributes:
        steps: Denoising steps of every edit; None: the model's own choice.
        seed: Of every edit.
    """

    steps: Steps = None
    seed: Seed = 0
    name: str = field(default="emoji-edit", init=False)
    title: str = field(default="EmojiEdit: edits with an exact answer", init=False)
    about: str = field(default=ABOUT, init=False)
    measures: tuple[Measure, ...] = field(init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self.measures = MEASURES

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"split": TEST_SEED, "steps": self.steps, "seed": self.seed}

    def cases(self) -> Sequence[Case]:
        return [
            Case(f"{number:03d}-{case.kind}", case.kind, (number, case), f"{case.source_prompt} → {case.target_prompt}")
            for number, case in enumerate(draw_cases())
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        return edit_configurations(methods, inversions, REFERENCES)

    def prepare(self, model: Model) -> None:
        _ = self._judges

    @cached_property
    def _judges(self) -> Judges:
        return Judges()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_judges"}

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        number, edit = case.data
        source, truth = read_atlas(number)
        costs: dict[str, float | int] = {}
        notes: tuple[str, ...] = ()
        reconstruction = None
        if configuration.method == "unedited":
            result = source
        elif configuration.method == "autoencoder":
            with torch.no_grad():
                result = to_images(model.decode_latents(model.encode_image(to_pixels(truth))))[0]
        else:
            more = {}
            if edit.weights:
                if "weights" not in METHODS[configuration.method].parameters:
                    raise NotApplicable(f"{configuration.method} has no word weights")
                more["weights"] = dict(edit.weights)
            done = edited(
                model, source, edit.source_prompt, edit.target_prompt, configuration,
                steps=self.steps, seed=self.seed, **more,
            )  # fmt: skip
            result, costs, notes = done.image, price(done), done.notes
            reconstruction = done.reconstruction_psnr
        figures = self._judges.figures(source, truth, result, edit)
        return Outcome(
            {**figures, "reconstruction_psnr": reconstruction, **costs},
            {"source": source, "truth": truth, "result": result},
            notes,
        )

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        return {}


MEASURES = (
    Measure(
        "target_distance", "distance to the truth", "lower",
        "Perceptual distance between result and exact target, by the features of the shipped dual encoder.", "edit", 3,
    ),
    Measure(
        "target_psnr", "PSNR to the truth, dB", "higher", "Between result and exact target, at most 50.", "edit", 1,
    ),
    Measure(
        "kept_psnr", "PSNR kept, dB", "higher",
        "Between result and source where the exact edit changes nothing, at most 50; no figure where it changes all.",
        "keep", 1,
    ),
    Measure("concept_right", "concept", "higher", "Share whose concept the independent classifier confirms.", "", 2),
    Measure("style_right", "style", "higher", "Share whose drawing style it confirms.", "", 2),
    Measure(
        "background_right", "background", "higher",
        "Share whose border colour (median) is within Delta E 15 of the target's.", "", 2,
    ),
    Measure("reconstruction_psnr", "reconstruction PSNR, dB", "higher", "The run's source branch against the source."),
    Measure("evaluations", "evaluations", "lower", "Network evaluations, the inversion's included.", "", 0),
    Measure("seconds", "seconds", "lower", "Wall-clock time of one edit in one process; see the settings.", "", 1),
    Measure("memory_gb", "memory, GB", "lower", "Peak memory of the process (of the device on a GPU)."),
)  # fmt: skip


class Judges:
    """The shipped networks that look at a result: the independent classifier, and the perceptual distance."""

    def __init__(self) -> None:
        from sfumato.emoji import WEIGHTS
        from sfumato.emoji.judges import load_classifier
        from sfumato.emoji.perceptual import EmojiDistance

        self.classifier, self.concepts = load_classifier(WEIGHTS / "classifier.safetensors")
        self.distance = EmojiDistance()

    @torch.no_grad()
    def figures(
        self, source: Image.Image, truth: Image.Image, result: Image.Image, edit: EditCase
    ) -> dict[str, float | None]:
        """Everything that is measured on one result."""
        from sfumato.emoji.world import STYLES

        arrays = {name: np.asarray(image.convert("RGB")) for name, image in _named(source, truth, result)}
        pixels = to_pixels(result)
        concept, style = self.classifier(pixels)
        kept = kept_psnr(arrays["result"], arrays["source"], ~changed_region(arrays["source"], arrays["truth"]))
        seen, named = border_colour(arrays["result"]), edit.target.background_rgb or BACKGROUNDS[edit.target.background]
        return {
            "target_distance": float(self.distance(pixels, to_pixels(truth))),
            "target_psnr": min(psnr(arrays["result"], arrays["truth"], data_range=255), HIGHEST_PSNR),
            "kept_psnr": kept,
            "concept_right": float(self.concepts[int(concept.argmax())] == edit.target.concept),
            "style_right": float(list(STYLES)[int(style.argmax())] == edit.target.style),
            "background_right": float(delta_e(seen, np.asarray(named)) <= BACKGROUND_WITHIN),
        }


def _named(*images: Image.Image) -> list[tuple[str, Image.Image]]:
    return list(zip(("source", "truth", "result"), images, strict=True))


def border_colour(image: np.ndarray) -> np.ndarray:
    """Median colour, 0-255, of the two outermost pixels of an image, uint8 (H, W, 3)."""
    ring = np.ones(image.shape[:2], bool)
    ring[2:-2, 2:-2] = False
    return np.asarray(np.median(image[ring], axis=0))


def delta_e(first: np.ndarray, second: np.ndarray) -> float:
    """CIE76 difference of two sRGB colours, 0-255, under D65."""
    return float(np.linalg.norm(_lab(first) - _lab(second)))


def _lab(colour: np.ndarray) -> np.ndarray:
    srgb = np.asarray(colour, dtype=float) / 255
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    xyz = np.array(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    ) @ linear / np.array([0.95047, 1.0, 1.08883])  # fmt: skip
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])
