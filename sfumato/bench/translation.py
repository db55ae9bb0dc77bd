"""Unpaired translation: images of one domain become images of another, measured as CycleDiffusion's paper does.

Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559, section 4.1: FID and KID of the results against real
images of the second domain (does it belong there?), PSNR and SSIM against the source (was it kept?).

On the emoji world the domains are drawing styles, with one text model on both sides and prompts for the domains; as the
same scene is drawn in every style, the distance to the true pair is measured too. With `--data FOLDER`, images of
`FOLDER/source` are translated and those of `FOLDER/target` are the real ones; with `--set source_model=NAME` two models
do it, such as the pixel-space models of AFHQ cats and dogs.

FID and KID are the Fréchet and the kernel distance by the features of the network that is named beside them; only with
Inception's features and thousands of images can they be compared with papers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image

import sfumato
from sfumato.api.requests import TranslationMethod
from sfumato.bench.benchmark import Case, Configuration, Measure, Outcome, Seed, Steps
from sfumato.bench.data import path_inside
from sfumato.bench.editing import QUIET, edit_configurations, edited, price
from sfumato.bench.scenes import rendered, scenes_in_styles
from sfumato.bench.sets import set_distances
from sfumato.emoji.render import shipped_atlas
from sfumato.emoji.scene_captions import Telling, caption
from sfumato.emoji.scenes import Scene
from sfumato.errors import UsageError
from sfumato.images import Fit, fit_image, load_image, to_images, to_pixels
from sfumato.metrics.psnr import psnr
from sfumato.metrics.ssim import ssim
from sfumato.run.rows import short

if TYPE_CHECKING:
    from sfumato.models.base import Model

TRANSLATIONS = ("cycle-diffusion", "ddib")
BASELINES = ("sdedit", "ilvr", "egsde")
REFERENCES = ("unedited", "autoencoder")
COUNT = 60
"""Scenes a pair of styles."""
HIGHEST_PSNR = 50.0
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MEASURES = (
    Measure(
        "pair_distance", "distance to the true pair", "lower",
        "Perceptual distance to the same scene in the target style.", "edit", 3,
    ),
    Measure("pair_psnr", "PSNR to the true pair, dB", "higher", "At most 50.", "edit", 1),
    Measure("psnr", "PSNR to the source, dB", "higher", "What was kept of the image, at most 50.", "keep", 1),
    Measure("ssim", "SSIM to the source", "higher", "The same, of structures (Gaussian window of 11).", "keep", 3),
    Measure("evaluations", "evaluations", "lower", "Network evaluations of both models.", "", 0),
    Measure("seconds", "seconds", "lower", "Wall-clock time of one image.", "", 1),
    Measure("memory_gb", "memory, GB", "lower", "Peak memory of the process (of the device on a GPU)."),
)  # fmt: skip


@dataclass
class Translation:
    """The benchmark; see the module.

    Attributes:
        data: Folder of `source/` and `target/`; None: the emoji styles.
        fit: What may be done with images of the folder whose size the models do not allow; None: they are refused.
        source_model: Name of the first model; None: the second one is both.
        source_prompt, target_prompt: Of the domains of a folder, for models of text.
        steps, seed: Of every translation.

    Raises:
        UsageError: The folder lacks one of the two, or images in them.
    """

    data: str | Path | None = None
    fit: Fit | None = None
    source_model: str | None = None
    source_prompt: str = ""
    target_prompt: str = ""
    steps: Steps = None
    seed: Seed = 0
    name: str = field(default="translation", init=False)
    title: str = field(default="Unpaired translation", init=False)
    about: str = field(default=(__doc__ or "").partition("\n\n")[2], init=False)
    measures: tuple[Measure, ...] = field(default=MEASURES, init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.data is not None:
            for side in ("source", "target"):
                if not _images(Path(self.data) / side):
                    raise UsageError(f"{Path(self.data) / side} holds no images ({', '.join(PICTURES)})")

    @property
    def settings(self) -> Mapping[str, Any]:
        data = {"data": self._fingerprint if self.data else "emoji styles", "source model": self.source_model}
        prompts = {"source prompt": self.source_prompt, "target prompt": self.target_prompt}
        return {**data, **(prompts if self.data else {}), "fit": self.fit, "steps": self.steps, "seed": self.seed}

    @property
    def _fingerprint(self) -> str:
        """What tells the data from other data: names and sizes of all images."""
        found = [path for side in ("source", "target") for path in _images(Path(str(self.data)) / side)]
        listing = "\n".join(f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in found)
        return hashlib.sha256(listing.encode("utf-8", "backslashreplace")).hexdigest()[:12]

    def cases(self) -> Sequence[Case]:
        if self.data is not None:
            paths = _images(Path(self.data) / "source")
            stems = [path.stem for path in paths]
            names = [path.stem if stems.count(path.stem) == 1 else path.name for path in paths]
            return [Case(short(name), "all", path, name) for name, path in zip(names, paths, strict=True)]
        return [
            Case(f"{first}-{second}-{place:03d}", f"{first} → {second}", (place, first, second), title)
            for first, second in style_pairs()
            for place, scenes in enumerate(_scenes())
            for title in [f"{_prompt(scenes[first])} → {second}"]
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        names = methods or (
            [*REFERENCES, *TRANSLATIONS] if self.source_model else [*REFERENCES, *TRANSLATIONS, *BASELINES]
        )
        if self.source_model:
            for name in names:
                if name not in (*REFERENCES, *TRANSLATIONS):
                    raise UsageError(f"{name} works with one model: with two, use {' or '.join(TRANSLATIONS)}")
        plain = [Configuration(name) for name in names if name in (*REFERENCES, *TRANSLATIONS)]
        others = [name for name in names if name not in (*REFERENCES, *TRANSLATIONS)]
        return plain + (edit_configurations(others, inversions) if others else [])

    def prepare(self, model: Model) -> None:
        _ = self._distance

    @cached_property
    def _distance(self) -> Any:
        from sfumato.emoji.perceptual import EmojiDistance

        return EmojiDistance()

    @cached_property
    def _source_model(self) -> Model:
        assert self.source_model is not None
        return sfumato.load_model(self.source_model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_distance", "_source_model")}

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        source, truth, prompts = self._case(case, model)
        costs: dict[str, float | int] = {}
        if configuration.method == "unedited":
            result = source
        elif configuration.method == "autoencoder":
            with torch.no_grad():
                result = to_images(model.decode_latents(model.encode_image(to_pixels(source))))[0]
        elif configuration.method in TRANSLATIONS:
            first = model if self.source_model is None else self._source_model
            done = sfumato.translate(
                first, model, source, method=cast(TranslationMethod, configuration.method),
                source_prompt=prompts[0], target_prompt=prompts[1], num_inference_steps=self.steps, seed=self.seed,
                watch=QUIET, **configuration.options,
            )  # fmt: skip
            result, costs = done.image, price(done)
        else:
            edit = edited(model, source, *prompts, configuration, steps=self.steps, seed=self.seed)
            result, costs = edit.image, price(edit)
        arrays = np.asarray(result), np.asarray(source)
        figures: dict[str, float | int | None] = {
            "psnr": min(psnr(*arrays, data_range=255), HIGHEST_PSNR),
            "ssim": float(ssim(to_pixels(result), to_pixels(source), data_range=2)),
            **costs,
        }
        images = {"source": source, "result": result}
        if truth is not None:
            images["truth"] = truth
            with torch.no_grad():
                figures["pair_distance"] = float(self._distance(to_pixels(result), to_pixels(truth)))
            figures["pair_psnr"] = min(psnr(np.asarray(result), np.asarray(truth), data_range=255), HIGHEST_PSNR)
        return Outcome(figures, images)

    def _case(self, case: Case, model: Model) -> tuple[Image.Image, Image.Image | None, tuple[str, str]]:
        """Source, true pair where it is known, and the two prompts."""
        if isinstance(case.data, Path):
            opened = load_image(path_inside(Path(str(self.data)), case.data.name, below="source")).image
            models = [model] if self.source_model is None else [model, self._source_model]
            source = fit_image(opened, multiple=max(one.size_multiple for one in models), fit=self.fit).image
            return source, None, (self.source_prompt, self.target_prompt)
        place, first, second = case.data
        scenes = [_scenes()[place][style] for style in (first, second)]
        source, truth = rendered(scenes, shipped_atlas())
        return source, truth, (_prompt(scenes[0]), _prompt(scenes[1]))

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        """Distances of the sets, by kind where there are several."""
        found: dict[str, float | None] = {}
        done = [row for row in rows if row["status"] == "done"]
        for kind in dict.fromkeys(row["kind"] for row in done):
            results = [folder / row["pictures"]["result"] for row in done if row["kind"] == kind]
            real: list[Any]
            if self.data is None:
                style = kind.rpartition(" ")[2]
                real = rendered([of_styles[style] for of_styles in _scenes()], shipped_atlas())
            else:
                target = _images(Path(self.data) / "target")
                real = [path_inside(Path(self.data), path.name, below="target") for path in target]
            found |= {f"{name}, {kind}": value for name, value in set_distances(results, real).items()}
        return found


def _images(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror or error}") from error


def style_pairs() -> list[tuple[str, str]]:
    """The shipped world's styles, two by two."""
    styles = shipped_atlas().world.styles
    return list(zip(styles[::2], styles[1::2], strict=False))


@cache
def _scenes() -> list[dict[str, Scene]]:
    """The scenes of the benchmark, by style."""
    return [{scene.style: scene for scene in one} for one in scenes_in_styles(shipped_atlas().world, COUNT)]


def _prompt(scene: Scene) -> str:
    plain = scene.background.pattern == "plain"
    return caption(scene, Telling(tuple(range(len(scene.things))), style=True, pattern=not plain))
