"""PIE-Bench: 700 images with prompts and masks, the field's benchmark of text-driven editing.

Ju et al., 2023 (PnP Inversion), https://arxiv.org/abs/2310.01506. Reads the folder as it is distributed:
`mapping_file.json` beside `annotation_images/`. Two protocols. `pie-2023` measures as the published code does:
structure on values of 0 to 255 without antialiasing, both images blackened inside the mask and averaged over the
whole frame, the mask's outermost pixels forced to 1, results through JPEG. `strict` measures the background alone,
results as they are, the networks' inputs as the networks were trained. Compare only `pie-2023` with published tables,
which themselves vary by several points between runs.

Masks are for measuring only; edits use them only if the settings say so. An image whose mask leaves no background has
no background figures and is counted separately. A damaged entry costs only its own rows. Judges are not downloaded;
where one is missing on this computer, its figures are missing. The row `autoencoder` is the model's autoencoder on the
source: no method that uses it can preserve more.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from sfumato.bench.benchmark import Case, Configuration, Measure, Outcome, Seed, Steps
from sfumato.bench.data import path_inside, read_entries
from sfumato.bench.editing import edit_configurations, edited, price
from sfumato.checks import shown
from sfumato.edits.method import METHODS
from sfumato.errors import ImageError, ModelError, UsageError
from sfumato.images import load_image, to_images, to_pixels
from sfumato.json_input import JsonError, check_values
from sfumato.judges.clip import CLIP, DINO
from sfumato.metrics.lpips import Lpips
from sfumato.metrics.masked import background_distance, background_mse, background_psnr, background_ssim
from sfumato.metrics.structure import structure_distance
from sfumato.metrics.text_agreement import text_agreement
from sfumato.metrics.weights import MissingNetworkError
from sfumato.run.rows import short

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
    Measure("reconstruction_psnr", "reconstruction PSNR, dB", "higher", "The run's source branch against the source."),
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
        clip, dino: Local folders of the judges, or hub names that are in the cache.

    Raises:
        UsageError: The folder is not such a folder, or there is no such protocol.
        ModelError: A judge that was named cannot be loaded.
    """

    data: str | Path = ""
    protocol: Protocol = "strict"
    masks: bool = False
    steps: Steps = None
    seed: Seed = 0
    clip: str = CLIP
    dino: str = DINO
    name: str = field(default="pie", init=False)
    measures: tuple[Measure, ...] = field(default=MEASURES, init=False)
    _no_lpips: str = field(default="see sfumato.metrics.Lpips", init=False, repr=False)
    about: str = field(default=(__doc__ or "").partition("\n\n")[2], init=False)

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise UsageError(f"protocol must be one of {', '.join(get_args(Protocol))}, got {self.protocol!r}")
        self.data = Path(self.data)
        file = self.data / "mapping_file.json"
        remedy = (
            "--data is the folder of PIE-Bench, with mapping_file.json and annotation_images/; its authors hand it out"
            " (github.com/cure-lab/PnPInversion)"
        )
        entries, self._fingerprint = read_entries(file, remedy)
        if not isinstance(entries, dict) or not entries:
            raise UsageError(f"{file} must be a table of entries by name, got {shown(entries)}: {remedy}")
        self._entries: dict[str, Any] = entries

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
            "images": len(self._entries),
            "data": self._fingerprint,
            "judges": judges,
        }

    @property
    def notes(self) -> Sequence[str]:
        """One line when judges are missing: which, and how they come here."""
        if not (lacking := [name for name, judge in self._judges.items() if judge is None]):
            return ()
        hub = [{"clip": self.clip, "dino": self.dino}[name] for name in lacking if name != "lpips"]
        ways = [f"`hf download {name}` once with a network, or --set clip=FOLDER or dino=FOLDER" for name in hub[:1]]
        ways += [f"likewise {name}" for name in hub[1:]]
        ways += [self._no_lpips] if "lpips" in lacking else []
        return (f"{', '.join(lacking)} not on this computer, so their figures are missing: {'; '.join(ways)}",)

    def cases(self) -> Sequence[Case]:
        return [
            Case(name, kind_of(entry), entry, title_of(entry))
            for name, entry in sorted(
                ((safe_name(key), entry) for key, entry in self._entries.items()), key=itemgetter(0)
            )
        ]

    def configurations(self, methods: Sequence[str], inversions: Sequence[str]) -> Sequence[Configuration]:
        return edit_configurations(methods, inversions, REFERENCES)

    def prepare(self, model: Model) -> None:
        _ = self._judges

    @cached_property
    def _judges(self) -> dict[str, Any]:
        """CLIP, DINO and LPIPS, each None where its weights are not on this computer; nothing is fetched."""
        from sfumato.judges.clip import load_clip, load_dino

        found: dict[str, Any] = dict.fromkeys(("clip", "dino", "lpips"))
        named: dict[str, tuple[Callable[..., Any], str, str]] = {
            "clip": (load_clip, self.clip, CLIP),
            "dino": (load_dino, self.dino, DINO),
        }
        for key, (load, name, usual) in named.items():
            try:
                found[key] = load(name, cached=True)
            except ModelError:
                if name != usual:  # the user named it
                    raise
        try:
            found["lpips"] = Lpips("squeeze")
        except MissingNetworkError as error:
            self._no_lpips = str(error).partition(";")[0]  # without the other distances, which PIE-Bench has no use for
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_judges"}

    def attempt(self, model: Model, case: Case, configuration: Configuration) -> Outcome:
        entry = checked_entry(case.data)
        mask = decode_mask(entry["mask"], forced_border=self.protocol == "pie-2023")
        source = load_source(path_inside(Path(self.data), entry["image_path"], below="annotation_images"))
        prompts = plain(entry["original_prompt"]), plain(entry["editing_prompt"])
        height, width = model.sample_size  # a model made for smaller images gets them so
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
                white = Image.fromarray((mask * 255).astype(np.uint8)).resize(at_model.size)
                more["mask"] = white.point(lambda value: 255 if value >= 128 else 0)  # grey would change a share
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
        region, protocol = torch.from_numpy(mask).float(), self.protocol
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
        """How many images the background figures are means of."""
        finished = [row for row in rows if row["status"] == "done"]
        return {"images with background": float(sum(row["figures"].get("mse") is not None for row in finished))}


def checked_entry(entry: Any) -> dict[str, Any]:
    """An entry of the mapping, when it can be tried.

    Raises:
        ImageError: It is no table, or lacks a name, or has a value of another type.
    """
    if not isinstance(entry, dict):
        raise ImageError(f"the entry must be a table of names, got {shown(entry)}")
    try:
        check_values(entry)
    except JsonError as error:
        raise ImageError(f"the entry is damaged: {error}") from error
    for name in ("image_path", "original_prompt", "editing_prompt"):
        if not isinstance(entry.get(name), str):
            raise ImageError(f"the entry's {name} must be text, got {shown(entry.get(name))}")
    if "mask" not in entry:
        raise ImageError("the entry has no mask")
    if not isinstance(entry.get("blended_word") or "", str):
        raise ImageError(f"the entry's blended_word must be text, got {shown(entry['blended_word'])}")
    return entry


def kind_of(entry: Any) -> str:
    """What sort of edit an entry is, whatever the entry is."""
    number = entry.get("editing_type_id") if isinstance(entry, dict) else None
    known = {str(place): f"{place} {words}" for place, words in enumerate(TYPES)}
    return known.get(str(number), "unknown") if isinstance(number, str | int) else "unknown"


def title_of(entry: Any) -> str:
    """The two prompts of an entry, as far as it has them."""
    prompts = [entry.get(name) if isinstance(entry, dict) else None for name in ("original_prompt", "editing_prompt")]
    return " → ".join(plain(prompt) if isinstance(prompt, str) else "?" for prompt in prompts)


def safe_name(key: str) -> str:
    """An entry's name as rows can hold it."""
    return short(key) or "(no name)"


def plain(prompt: str) -> str:
    """A prompt without the brackets round the words that differ."""
    return prompt.replace("[", "").replace("]", "")


def decode_mask(runs: Sequence[int], *, side: int = SIDE, forced_border: bool = True) -> np.ndarray:
    """A mask, uint8 (side, side), from runs [start, length, start, length, ...] over its rows; 1 may change.

    Raises:
        ImageError: The runs are no such list, or one starts outside the grid.
    """
    whole = isinstance(runs, list) and all(type(value) is int and value >= 0 for value in runs)
    if not whole or len(runs) % 2:
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
    """An image of the set: the middle square, 512 x 512.

    Raises:
        ImageError: It is missing or damaged.
    """
    try:
        image = load_image(path).image
    except ImageError as error:
        raise ImageError(f"cannot read {path.name}: {error}") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


def through_jpeg(image: Image.Image) -> Image.Image:
    """The image as it is read from a JPEG file of Pillow's default quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as again:
        return again.convert("RGB")
