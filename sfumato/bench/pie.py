"""PIE-Bench: 700 pictures with prompts and masks, the field's benchmark of text-driven editing.

Ju et al., 2023 (PnP Inversion), https://arxiv.org/abs/2310.01506. Reads the folder as it is distributed:
`mapping_file.json` beside `annotation_images/`. Two protocols. `pie-2023` measures as the published code does:
structure on values of 0 to 255 without antialiasing, both pictures blackened inside the mask and averaged over the
whole frame, the mask's outermost pixels forced to 1, results through JPEG. `strict` measures the background alone,
results as they are, the networks' inputs as the networks were trained. Only `pie-2023` may be held against published
tables, and those themselves moved by several points between runs.

Masks measure; they do not help the edits, unless the run's settings say so. A picture whose mask leaves no background
has no background figures and is counted apart. Where a network is not on this computer its figures are missing. The row
`autoencoder` is the model's own autoencoder on the source: no method that goes through it can keep more.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image

from sfumato.bench.benchmark import Case, Configuration, Measure, Outcome
from sfumato.bench.editing import edit_configurations, edited, price
from sfumato.errors import ImageError, ModelError, UsageError
from sfumato.images import to_images, to_pixels
from sfumato.metrics.lpips import Lpips
from sfumato.metrics.masked import background_distance, background_mse, background_psnr, background_ssim
from sfumato.metrics.structure import structure_distance
from sfumato.metrics.text_agreement import text_agreement
from sfumato.metrics.weights import MissingNetworkError
from sfumato.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.models.base import Model

Protocol = Literal["pie-2023", "strict"]
SIDE = 512
JPEG_QUALITY = 75
REFERENCES = ("unedited", "autoencoder")
TYPES = (
    "random", "change object", "add object", "delete object", "change content", "change pose", "change color",
    "change material", "change background", "change style",
)  # fmt: skip
MEASURES = (
    Measure(
        "structure", "structure x 1000", "lower",
        "How far the layout moved: self-similarity of DINO keys, whole frame.", "keep", 2,
    ),
    Measure("psnr", "background PSNR, dB", "higher", "Between source and result outside the mask.", "keep", 2),
    Measure("lpips", "background LPIPS x 1000", "lower", "The same with LPIPS (squeeze).", "keep", 2),
    Measure("mse", "background MSE x 10000", "lower", "The same with the mean squared error.", "keep", 2),
    Measure("ssim", "background SSIM x 100", "higher", "The same with SSIM.", "keep", 2),
    Measure("clip_source", "CLIP, source prompt", "none", "Agreement of the result with the source prompt.", "", 2),
    Measure("clip_whole", "CLIP, whole", "higher", "Agreement of the result with the target prompt.", "edit", 2),
    Measure("clip_edited", "CLIP, edited part", "higher", "The same with all outside the mask black.", "edit", 2),
    Measure("reconstruction_psnr", "source comes back, dB", "higher", "The run's source branch against the source."),
    Measure("evaluations", "evaluations", "lower", "Network evaluations, the inversion's included.", "", 0),
    Measure("seconds", "seconds", "lower", "Wall-clock time of one edit.", "", 1),
    Measure("memory_gb", "memory, GB", "lower", "Peak memory of the process (of the device on a GPU)."),
)  # fmt: skip


@dataclass
class PieBench:
    """The benchmark; see the module.

    Attributes:
        data: The folder of `mapping_file.json` and `annotation_images/`.
        protocol: How it is measured.
        masks: Whether the edits may use the masks; published tables do not say so of theirs.
        steps, seed: Of every edit; None: the model's own number of steps.
        clip, dino: Hub names or local folders of the judges.

    Raises:
        UsageError: The folder is not such a folder, or there is no such protocol.
    """

    data: str | Path = ""
    protocol: str = "strict"
    masks: bool = False
    steps: int | None = None
    seed: int = 0
    clip: str = "openai/clip-vit-large-patch14"
    dino: str = "facebook/dino-vitb8"
    name: str = field(default="pie", init=False)
    measures: tuple[Measure, ...] = field(default=MEASURES, init=False)
    about: str = field(default=(__doc__ or "").partition("\n\n")[2], init=False)

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise UsageError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {self.protocol!r}")
        self.data = Path(self.data)
        file = self.data / "mapping_file.json"
        try:
            self._entries: dict[str, Any] = json.loads(file.read_text("utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise UsageError(
                f"cannot read {file} ({error}): --data is the folder of PIE-Bench, with mapping_file.json and"
                " annotation_images/; its authors hand it out (github.com/cure-lab/PnPInversion)"
            ) from error

    @property
    def title(self) -> str:
        return f"PIE-Bench, protocol {self.protocol}"

    @property
    def settings(self) -> Mapping[str, Any]:
        judges = {name: "missing" if judge is None else judge.name for name, judge in self._judges.items()}
        return {
            "protocol": self.protocol,
            "masks used for editing": self.masks,
            "steps": self.steps,
            "seed": self.seed,
            "pictures": len(self._entries),
            "judges": judges,
        }

    def cases(self) -> Sequence[Case]:
        def kind(entry: Mapping[str, Any]) -> str:
            number = str(entry.get("editing_type_id", ""))
            return f"{number} {TYPES[int(number)]}" if number.isdigit() and int(number) < len(TYPES) else "unknown"

        def title(entry: Mapping[str, Any]) -> str:
            return f"{plain(entry.get('original_prompt', ''))} → {plain(entry.get('editing_prompt', ''))}"

        return [Case(key, kind(entry), entry, title(entry)) for key, entry in sorted(self._entries.items())]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        return edit_configurations(methods, inversions, REFERENCES)

    def prepare(self, model: Model) -> None:
        _ = self._judges

    @cached_property
    def _judges(self) -> dict[str, Any]:
        """CLIP, DINO and LPIPS, each None where its weights are not on this computer."""
        from sfumato.models.judges import load_clip, load_dino

        found: dict[str, Any] = {}
        makers: dict[str, Callable[[], Any]] = {
            "clip": partial(load_clip, self.clip),
            "dino": partial(load_dino, self.dino),
            "lpips": partial(Lpips, "squeeze"),
        }
        for name, make in makers.items():
            try:
                found[name] = make()
            except (ModelError, MissingNetworkError):
                found[name] = None
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_judges"}

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        entry = case.data
        for name in ("image_path", "original_prompt", "editing_prompt", "mask"):
            if name not in entry:
                raise ImageError(f"the entry {case.name} of mapping_file.json has no {name}")
        mask = decode_mask(entry["mask"], forced_border=self.protocol == "pie-2023")
        source = load_source(cast(Path, self.data) / "annotation_images" / entry["image_path"])
        prompts = plain(entry["original_prompt"]), plain(entry["editing_prompt"])
        height, width = model.sample_size  # a model made for smaller pictures gets them so
        at_model = source if min(height, width) >= SIDE else source.resize((width, height))
        costs: dict[str, float | int | None] = {}
        notes: tuple[str, ...] = ()
        if configuration.method == "unedited":
            result = source
        elif configuration.method == "autoencoder":
            with torch.no_grad():
                result = to_images(model.decode_latents(model.encode_image(to_pixels(at_model))))[0]
        else:
            more: dict[str, Any] = {}
            if self.masks:
                more["mask"] = Image.fromarray((mask * 255).astype(np.uint8)).resize(at_model.size)
            if entry.get("blended_word") and "blend_words" in METHODS[configuration.method].parameters:
                more["blend_words"] = entry["blended_word"].split()
            done = edited(model, at_model, *prompts, configuration, steps=self.steps, seed=self.seed, **more)
            result, notes = done.image, done.notes
            costs = {**price(done), "reconstruction_psnr": done.reconstruction_psnr}
        if result.size != source.size:
            result = result.resize(source.size, Image.Resampling.BICUBIC)
        if self.protocol == "pie-2023":
            result = through_jpeg(result)
        return Outcome(
            {**self._figures(source, result, mask, prompts), **costs}, {"source": source, "result": result}, notes
        )

    @torch.no_grad()
    def _figures(
        self, source: Image.Image, result: Image.Image, mask: np.ndarray, prompts: tuple[str, str]
    ) -> dict[str, float | None]:
        before, after, judges = to_pixels(source), to_pixels(result), self._judges
        region, protocol = torch.from_numpy(mask).float(), cast(Protocol, self.protocol)
        figures: dict[str, Tensor | float | None] = {
            "psnr": background_psnr(after, before, region, protocol=protocol),
            "mse": 1e4 * background_mse(after, before, region, protocol=protocol),
            "ssim": 100 * background_ssim(after, before, region, protocol=protocol),
            "structure": None, "lpips": None, "clip_source": None, "clip_whole": None, "clip_edited": None,
        }  # fmt: skip
        if judges["dino"] is not None:
            figures["structure"] = 1e3 * structure_distance(before, after, judges["dino"], protocol=protocol)
        if judges["lpips"] is not None:
            apart = background_distance(after, before, region, judges["lpips"], protocol=protocol)
            figures["lpips"] = 1e3 * apart
        if judges["clip"] is not None:
            edited_part = (after + 1) * region - 1
            for name, pixels, prompt in (
                ("clip_source", after, prompts[0]),
                ("clip_whole", after, prompts[1]),
                ("clip_edited", edited_part, prompts[1]),
            ):
                seen, said = judges["clip"].image_features(pixels), judges["clip"].text_features([prompt])
                figures[name] = 100 * text_agreement(seen, said).clamp(min=0)  # floored at 0, as published
        return {name: None if value is None or value != value else float(value) for name, value in figures.items()}

    def summarise(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, float | None]:
        """How many pictures the background figures are means of."""
        finished = [row for row in rows if row["status"] == "done"]
        return {"pictures with background": float(sum(row["figures"].get("mse") is not None for row in finished))}


def plain(prompt: str) -> str:
    """A prompt without the brackets round the words that differ."""
    return prompt.replace("[", "").replace("]", "")


def decode_mask(runs: Sequence[int], *, side: int = SIDE, forced_border: bool = True) -> np.ndarray:
    """A mask, uint8 (side, side), from runs [start, length, start, length, ...] over its rows; 1 may change.

    Raises:
        ImageError: The runs are no such list, or one starts outside the grid.
    """
    if not isinstance(runs, list) or len(runs) % 2 or not all(isinstance(value, int) and value >= 0 for value in runs):
        raise ImageError("the mask is damaged: it must be a list of [start, length, start, length, ...]")
    flat = np.zeros(side * side, np.uint8)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start >= flat.size:
            raise ImageError(f"the mask is damaged: a run starts at {start} in a grid of {flat.size}")
        flat[start : start + length] = 1  # clipped at the grid's end
    mask = flat.reshape(side, side)
    if forced_border:
        mask[0] = mask[-1] = mask[:, 0] = mask[:, -1] = 1
    return mask


def load_source(path: Path) -> Image.Image:
    """A picture of the set: the middle square, 512 x 512.

    Raises:
        ImageError: It is missing or damaged.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"cannot read {path.name}: {error}") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


def through_jpeg(image: Image.Image) -> Image.Image:
    """The picture as it comes back from a JPEG file of Pillow's default quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as again:
        return again.convert("RGB")
