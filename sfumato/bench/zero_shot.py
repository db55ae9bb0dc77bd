"""Zero-shot editing with several trials a case, measured as CycleDiffusion's paper does.

Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559, section 4.2: the agreement of result and target text (CLIP
score), of the change of image and the change of text (directional CLIP score), PSNR and SSIM against the source. Each
case is run with several seeds, and the result with the best score is kept, as for the published figures; the figures of
the first seed alone are given too, as methods are not usually run several times.

Without data, the swaps and the style edits of EmojiEdit, judged by `emoji-clip`. With `--data FOLDER`, `triplets.json`
in it is a list of {"image", "source", "target"}, judged by CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from PIL import Image

from sfumato import checks
from sfumato.bench.benchmark import Case, Configuration, Measure, Outcome, Seed, Steps
from sfumato.bench.data import path_inside, read_entries, read_objects
from sfumato.bench.editing import edit_configurations, edited, price
from sfumato.bench.scenes import emoji_edits, rendered
from sfumato.emoji.render import shipped_atlas
from sfumato.errors import UsageError
from sfumato.images import Fit, fit_image, load_image, to_pixels
from sfumato.metrics.psnr import psnr
from sfumato.metrics.ssim import ssim
from sfumato.metrics.text_agreement import directional_agreement, text_agreement
from sfumato.options import Option

if TYPE_CHECKING:
    from sfumato.models.base import Model

KINDS = ("swap-near", "swap-far", "style")
REFERENCES = ("unedited",)
HIGHEST_PSNR = 50.0
MEASURES = (
    Measure("clip", "CLIP score", "higher", "Agreement of the chosen result with the target text.", "edit", 3),
    Measure(
        "directional", "directional CLIP score", "higher",
        "Agreement of the change of image with the change of text.", "edit", 3,
    ),
    Measure("psnr", "PSNR, dB", "higher", "Of the chosen result against the source, at most 50.", "keep", 1),
    Measure("ssim", "SSIM", "higher", "The same, of structures.", "keep", 3),
    Measure("clip_first", "CLIP score, first trial", "higher", "Without choosing.", "", 3),
    Measure("directional_first", "directional, first trial", "higher", "Without choosing.", "", 3),
    Measure("evaluations", "evaluations", "lower", "Network evaluations of all trials.", "", 0),
    Measure("seconds", "seconds", "lower", "Wall-clock time of all trials.", "", 1),
)  # fmt: skip


@dataclass
class ZeroShot:
    """The benchmark; see the module.

    Attributes:
        data: Folder of `triplets.json`; None: the emoji world.
        fit: What may be done with images of the data whose size the model does not allow; None: they are refused.
        judge: For a folder of data: folder of a CLIP model, or hub name of one that is in the cache.
        trials: Seeds a case, at least 1; methods that draw nothing are tried once.
        steps, seed: Of every edit; trials count up from the seed.

    Raises:
        UsageError: `triplets.json` is missing or damaged, or `trials` is below 1.
    """

    data: str | Path | None = None
    fit: Fit | None = None
    judge: str = "openai/clip-vit-base-patch32"
    trials: Annotated[int, Option("number of seeds of each case, of which the judge keeps the best", low=1)] = 3
    steps: Steps = None
    seed: Seed = 0
    name: str = field(default="zero-shot", init=False)
    title: str = field(default="Zero-shot editing", init=False)
    about: str = field(default=(__doc__ or "").partition("\n\n")[2], init=False)
    measures: tuple[Measure, ...] = field(default=MEASURES, init=False)
    notes: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UsageError(f"trials must be at least 1, got {self.trials}")
        if self.data is not None:
            _ = self._triplets

    @cached_property
    def _triplets(self) -> tuple[list[dict[str, Any]], str]:
        """The triplets of the data, all checked, and the fingerprint of their file."""
        file = Path(str(self.data)) / "triplets.json"
        remedy = "it must be a list of objects with image, source and target"
        entries, fingerprint = read_entries(file, remedy)
        table = dict.fromkeys(("image", "source", "target"), checks.text)
        return read_objects(entries, table, file, remedy), fingerprint

    @property
    def settings(self) -> Mapping[str, Any]:
        judge = "emoji-clip" if self.data is None else self.judge
        return {
            "data": "emoji" if self.data is None else self._triplets[1],
            "fit": self.fit,
            "judge": judge,
            "trials": self.trials,
            "steps": self.steps,
            "seed": self.seed,
        }

    def cases(self) -> Sequence[Case]:
        if self.data is not None:
            return [
                Case(f"{place:04d}", "all", one, f"{one['source']} → {one['target']}")
                for place, one in enumerate(self._triplets[0])
            ]
        return [
            Case(f"{place:03d}-{edit.kind}", edit.kind, edit, f"{edit.source_prompt} → {edit.target_prompt}")
            for place, edit in enumerate(emoji_edits(shipped_atlas().world))
            if edit.kind in KINDS
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        return edit_configurations(methods, inversions, REFERENCES)

    def prepare(self, model: Model) -> None:
        _ = self._judge

    @cached_property
    def _judge(self) -> Any:
        if self.data is None:
            return _EmojiJudge()
        from sfumato.judges.clip import load_clip

        return load_clip(self.judge, cached=True)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_judge"}

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        truth = None
        if self.data is None:
            edit = case.data
            source, truth = rendered([edit.source, edit.target], shipped_atlas())
            prompts = edit.source_prompt, edit.target_prompt
        else:
            opened = load_image(path_inside(Path(str(self.data)), case.data["image"])).image
            source = fit_image(opened, multiple=model.size_multiple, fit=self.fit).image
            prompts = case.data["source"], case.data["target"]
        results, costs = [], []
        for trial in range(self.trials):
            if configuration.method == "unedited":
                results.append(source)
                break
            done = edited(model, source, *prompts, configuration, steps=self.steps, seed=self.seed + trial)
            results.append(done.image)
            costs.append(price(done))
            if trial and np.array_equal(np.asarray(results[0]), np.asarray(results[1])):
                results, costs = results[:1], costs[:1]  # nothing is drawn: more trials would be equal
                break
        scores = [self._agreements(source, result, prompts) for result in results]
        chosen = max(range(len(results)), key=lambda trial: scores[trial][0])
        arrays = np.asarray(results[chosen]), np.asarray(source)
        figures: dict[str, float | int | None] = {
            "clip": scores[chosen][0],
            "directional": scores[chosen][1],
            "clip_first": scores[0][0],
            "directional_first": scores[0][1],
            "psnr": min(psnr(*arrays, data_range=255), HIGHEST_PSNR),
            "ssim": float(ssim(to_pixels(results[chosen]), to_pixels(source), data_range=2)),
            "evaluations": sum(cost["evaluations"] for cost in costs),
            "seconds": round(sum(cost["seconds"] for cost in costs), 3),
        }
        images = {"source": source, "result": results[chosen]} | ({} if truth is None else {"truth": truth})
        return Outcome(figures, images)

    @torch.no_grad()
    def _agreements(self, source: Image.Image, result: Image.Image, prompts: tuple[str, str]) -> tuple[float, float]:
        """CLIP score and directional CLIP score."""
        before, after = (self._judge.image_features(to_pixels(image)) for image in (source, result))
        texts = self._judge.text_features(list(prompts))
        return (
            float(text_agreement(after, texts[1:])),
            float(directional_agreement(after, before, texts[1:], texts[:1])),
        )

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        return {}


class _EmojiJudge:
    """`emoji-clip` under the names of `sfumato.judges.clip.ClipJudge`."""

    def __init__(self) -> None:
        from sfumato.emoji.judge import EmojiClip

        self.image_features, self.text_features = EmojiClip().encode_image, EmojiClip().encode_text
