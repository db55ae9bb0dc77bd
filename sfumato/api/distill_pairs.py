"""Pairs of a distillation: made by any method as a batch, so that a run that is killed goes on; then looked at.

The folder of a distillation holds `drawn-.../` (images that the model drew itself), `pairs/` (a batch: the edited
images and their rows) and `pairs.jsonl`: of each pair what was measured, and why it is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.api.batch import Options, laid_out, run_batch
from sfumato.api.batch_inputs import Inputs
from sfumato.api.batch_items import Item, Settings
from sfumato.api.batch_progress import Progress
from sfumato.api.batch_rows import ROW
from sfumato.api.batch_work import Begin, Worker
from sfumato.api.common import following
from sfumato.api.generate import generate
from sfumato.api.manifest import Line
from sfumato.distillation.pairs import Pairs, check_enough
from sfumato.distillation.selection import Verdict
from sfumato.distillation.templates import filled
from sfumato.errors import Cancelled, ImageError, UsageError
from sfumato.files import write_whole
from sfumato.images import fit_image, load_image, save_image
from sfumato.images.reading import by
from sfumato.models.base import Model
from sfumato.run.crew import ThisProcess
from sfumato.run.rows import each_row, finite
from sfumato.watch import Progress as Shown
from sfumato.watch import Watch

PAIRS, VERDICTS = "pairs", "pairs.jsonl"
_TEACHER = (
    "method", "inversion", "options", "inversion_options", "num_inference_steps", "guidance_scale", "negative_prompt",
    "seed",
)  # fmt: skip
AT_ONCE = 8
"""Images that are drawn in one run."""


@dataclass(frozen=True, eq=False)
class Made:
    """What the teacher made.

    Attributes:
        pairs: By the key of their items.
        prompts: Source and target prompt of each.
        psnrs: Of the reconstructions, dB; None where it is not known.
        failed: Number of edits that could not be made.
        seconds: That all edits took, one after another.
        own: Arguments of the teacher that rows have given themselves.
    """

    pairs: Pairs
    prompts: tuple[tuple[str, str], ...]
    psnrs: tuple[float | None, ...]
    failed: int
    seconds: float = 0.0
    own: tuple[str, ...] = ()


def draw_sources(model: Model, prompts: tuple[str, str], count: int, folder: Path, watch: Watch, **more: Any) -> Inputs:
    """Has the model draw images of the source prompt, those that are missing.

    Args:
        model: The teacher.
        prompts: Source and target prompt; where they have alternatives, every `AT_ONCE` images have a choice of their
            own, see `templates`.
        count: How many; each has the next seed.
        folder: Of the distillation.
        watch: Progress and cancellation.
        more: `negative_prompt`, `num_inference_steps`, `guidance_scale`, `seed` and `size` of `sfumato.generate`.

    Returns:
        The images, each with its prompts.
    """
    said = json.dumps([model.recipe, prompts[0], more], sort_keys=True, default=str)
    drawn = folder / f"drawn-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    drawn.mkdir(parents=True, exist_ok=True)
    paths = [drawn / f"{number:05d}.png" for number in range(count)]
    seed = more.pop("seed", 0)
    starts = range(0, count, AT_ONCE)
    told = {start: filled(*prompts, following(seed, start)) for start in starts}
    missing = [start for start in starts if not all(path.is_file() for path in paths[start : start + AT_ONCE])]
    for start in watch.during("drawing sources").over(missing):
        number = min(AT_ONCE, count - start)
        quiet = Watch(progress=lambda _: None, cancelled=watch.cancelled)
        result = generate(model, told[start][0], num_images=number, seed=following(seed, start), watch=quiet, **more)
        for path, image in zip(paths[start:], result.images, strict=False):
            save_image(image, path, recipe=result.recipe)
    lines = []
    for number, path in enumerate(paths):
        before, after = told[number // AT_ONCE * AT_ONCE]
        lines.append(Line(number + 1, {"image": str(path), "source_prompt": before, "target_prompt": after}))
    return Inputs(lines, Path(), False)


def make_pairs(
    model: Model,
    inputs: Inputs,
    defaults: Mapping[str, Any],
    folder: Path,
    *,
    keep: float = 1.0,
    loading: Mapping[str, Any] | None = None,
    workers: int = 1,
    watch: Watch | None = None,
) -> Made:
    """Edits all images that are not edited yet, and reads all pairs.

    Args:
        model: The teacher.
        inputs: The images, or the rows of a manifest.
        defaults: Arguments of `sfumato.edit` for rows that have none of their own.
        folder: Of the distillation.
        keep: Share of the pairs that will be kept at most.
        loading: What the model was loaded with, by the names of `load_model`; needed by several workers.
        workers: 1: this process.
        watch: Progress and cancellation.

    Raises:
        UsageError: There are too few images, images of several sizes, no change is asked for, or the folder holds pairs
            of another model.
        ImageError: An image cannot be read.
        Cancelled: The watch asked to stop; what is made stays.
    """
    watch = watch or Watch()
    named = loading or {"name": model.name, "revision": model.revision, "dtype": str(model.dtype), **model.parts}
    settings = Settings(json.loads(json.dumps(named, default=str)), inputs.folder, not inputs.manifest, "{key}.png")
    # an image without its row has no PSNR to be chosen by
    options = Options(workers=workers, threads=1 if workers > 1 else None, retry_errors=True, adopt=False)
    items = laid_out(inputs.lines, defaults, settings, options, {})
    _check(items, model, keep)

    def tick(state: Progress) -> None:
        if watch.progress is not None:
            watch.progress(Shown("making pairs", state.done + state.failed, state.items))

    def asked() -> bool:
        return watch.cancelled is not None and watch.cancelled()

    def here(begin: Begin) -> ThisProcess:
        return ThisProcess(lambda: ({"revision": model.revision}, Worker(model, begin.images)))

    batch = run_batch(
        inputs.lines, defaults, settings, folder / PAIRS, options,
        hire=here if workers == 1 else None, stopping=asked, tick=tick,
    )  # fmt: skip
    if batch.progress.left:
        raise Cancelled(f"stopped while making pairs, after {batch.progress.done} of {batch.progress.items}")
    return replace(_read(items, folder / PAIRS, model), own=_own(items, defaults))


def write_verdicts(made: Made, verdicts: Sequence[Verdict], folder: Path) -> None:
    """Writes what was found of each pair, a line of JSON for each."""
    lines = [
        json.dumps(
            {
                "target": f"{PAIRS}/images/{name}.png", "kept": not one.reason, "reason": one.reason,
                "change": round(one.change, 4), "agreement": finite(one.agreement), "psnr": finite(one.psnr),
                "source_prompt": before, "target_prompt": after,
            }
        )
        for name, one, (before, after) in zip(made.pairs.names, verdicts, made.prompts, strict=True)
    ]  # fmt: skip
    write_whole(folder / VERDICTS, "".join(f"{line}\n" for line in lines))


def _check(items: Sequence[Item], model: Model, keep: float) -> None:
    """Refuses what cannot become pairs, before the first edit."""
    good = {item.key: item for item in items if not item.error}
    reason = next((f"; the first error: {item.error}" for item in items if item.error), "")
    check_enough(len(good), keep, reason)
    for item in good.values():
        before, after = _prompts(item)
        if before.strip() == after.strip() and not item.arguments.get("options"):
            raise UsageError(f"source and target prompt are the same, {before!r}: say what the edit should change")
    sizes: dict[tuple[int, int], str] = {}
    for item in good.values():
        sizes.setdefault(_source(item, model).size, str(item.arguments["image"]))
    if len(sizes) > 1:
        (one, first), (other, second), *_ = sizes.items()
        multiple = model.size_multiple
        common = tuple(max(multiple, min(size[side] for size in sizes) // multiple * multiple) for side in (0, 1))
        raise UsageError(
            f"the images have several sizes, such as {by(one)} ({first}) and {by(other)} ({second}), and a student is"
            f" trained at one: give --size {by(common)} --fit crop"
        )


def _source(item: Item, model: Model) -> Image.Image:
    """A source as the edit sees it, padding cut off again."""
    path, size, fit = (item.arguments.get(name) for name in ("image", "size", "fit"))
    if path is None:
        raise UsageError(f"row {item.index} names no image: give the column")
    image = load_image(path).image
    try:
        fitted = fit_image(image, multiple=model.size_multiple, size=None if size is None else tuple(size), fit=fit)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return fitted.restore(fitted.image)


def _read(items: Sequence[Item], folder: Path, model: Model) -> Made:
    """The pairs that are done, those of equal items once."""
    rows = {row["item"]: row for row in each_row(folder, ROW)}
    chosen = {item.key: item for item in items if rows.get(item.name, {}).get("status") == "done"}
    names, sources, targets, prompts, psnrs = [], [], [], [], list[float | None]()
    for key, item in sorted(chosen.items()):
        source, target = _source(item, model), load_image(folder / "images" / item.name).image
        if target.size == source.size:
            names.append(key)
            sources.append(_bytes(source))
            targets.append(_bytes(target))
            prompts.append(_prompts(item))
            psnr = rows[item.name].get("figures", {}).get("reconstruction_psnr")
            psnrs.append(None if psnr is None else float(psnr))
    if not names:
        reasons = [row["error"] for row in rows.values() if row.get("error")]
        raise UsageError(f"no pair could be made: {reasons[0] if reasons else 'there are no rows'}")
    failed = sum(rows.get(item.name, {}).get("status") != "done" for item in items)
    seconds = sum(float(rows[item.name].get("took", 0.0)) for item in chosen.values())
    pairs = Pairs(tuple(names), torch.stack(sources), torch.stack(targets))
    return Made(pairs, tuple(prompts), tuple(psnrs), failed, seconds)


def _own(items: Sequence[Item], defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """Which arguments of the teacher rows have given themselves."""
    return tuple(
        name
        for name in _TEACHER
        if any(item.arguments.get(name) != defaults.get(name) for item in items if not item.error)
    )


def _prompts(item: Item) -> tuple[str, str]:
    return str(item.arguments.get("source_prompt", "")), str(item.arguments.get("target_prompt", ""))


def _bytes(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
