"""What a worker of a batch does: loads the model once, then makes the images of one run after the other.

Images are written by the worker, whole or not at all, and never sent anywhere. What goes wrong with an item becomes its
row; where an image cannot be written, the batch has to end, for the next one could not be written either.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.api.batch_items import Item, file_hash, request_of
from sfumato.api.batch_rows import done_row, error_row, error_text
from sfumato.errors import Cancelled, ImageError, SfumatoError
from sfumato.run.rows import Row
from sfumato.watch import Watch

if TYPE_CHECKING:
    from sfumato.api.requests import EditRequest
    from sfumato.models.base import Model

_QUIET = Watch(progress=lambda _: None)
"""Draws no progress bar."""


@dataclass(frozen=True)
class Task:
    """One run: items that differ in their target prompt alone, or a single one.

    Attributes:
        items: All of the run.
        missing: Names of those whose image is to be written.
        run: What `run_id` gives for them.
    """

    items: Sequence[Item]
    missing: frozenset[str]
    run: str


@dataclass(frozen=True)
class Begin:
    """Prepares a worker.

    Attributes:
        model: What the model is loaded with.
        images: Folder of the images.
        threads: Of this worker; None: as many as torch takes.
    """

    model: Mapping[str, Any]
    images: Path
    threads: int | None = None

    def __call__(self) -> tuple[dict[str, Any], Worker]:
        import torch

        from sfumato.models.loading import load_model

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load_model(**self.model)
        facts = {
            "revision": model.revision,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "notes": list(model.notes),
        }
        return facts, Worker(model, self.images)


class Worker:
    """Makes images with one model."""

    def __init__(self, model: Model, images: Path) -> None:
        from sfumato.api.source_memory import SourceMemory

        self._model, self._images = model, images
        self._sources: SourceMemory[Any] = SourceMemory()

    def __call__(self, task: Task) -> list[Row]:
        """Makes the missing images of a run, and gives a row for each.

        Raises:
            SfumatoError: An image could not be written.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self._run(task)
            except (_CannotWrite, Cancelled):
                raise
            except Exception as error:  # noqa: BLE001 - whatever one item does, it costs its row and not the others
                if len(task.items) == 1:
                    return [error_row(task.items[0], error_text(error), task.run)]
        alone = [Task([item], task.missing, task.run) for item in task.items if item.name in task.missing]
        return [row for one in alone for row in self(one)]

    def _run(self, task: Task) -> list[Row]:
        for path, known in task.items[0].files.items():
            if file_hash(path) != known:
                raise ImageError(f"{path} has changed since the batch was begun: run the same command again")
        made = self._morphs if task.items[0].command == "morph" else self._edits
        return made(task)

    def _edits(self, task: Task) -> list[Row]:
        from sfumato.api.edit_run import run
        from sfumato.images import save_image

        start = time.perf_counter()
        targets = [item.arguments["target_prompt"] for item in task.items]
        request: EditRequest = request_of(task.items[0], target_prompt=targets)  # type: ignore[assignment]
        request.check_models(_QUIET, model=self._model)
        result = run(self._model, request, _QUIET, sources=self._sources)
        took, count = time.perf_counter() - start, len(task.items)
        figures = {
            "reconstruction_psnr": result.reconstruction_psnr,
            "ceiling_psnr": result.ceiling_psnr,
            "evaluations": round(result.cost.evaluations / count, 2),
        }
        found = []
        for item, image in zip(task.items, result.images, strict=True):
            if item.name in task.missing:
                recipe = {**result.recipe, "target_prompts": [item.arguments["target_prompt"]], "key": item.key}
                with _writing():
                    save_image(image, self._images / item.name, recipe=recipe, background=request.background)
                row = done_row(item, figures=figures, notes=result.notes, took=took / count, run=task.run)
                found.append(row)
        return found

    def _morphs(self, task: Task) -> list[Row]:
        (item,) = task.items
        start = time.perf_counter()
        result = request_of(item).run(self._model, watch=_QUIET)  # type: ignore[attr-defined]
        result = replace(result, recipe={**result.recipe, "key": item.key})
        with _writing():
            result.save(self._images / item.name)
        figures = {
            "reconstruction_psnr": min(result.endpoint_psnr),
            "ceiling_psnr": min(result.ceiling_psnr),
            "spread": result.spread,
            "evaluations": result.cost.evaluations,
        }
        took = time.perf_counter() - start
        return [done_row(item, figures=figures, notes=result.notes, took=took, run=task.run)]


class _CannotWrite(SfumatoError):
    """The disk is full, or the folder has gone."""


@contextmanager
def _writing() -> Iterator[None]:
    """Makes what goes wrong in the block end the batch."""
    try:
        yield
    except SfumatoError as error:
        raise _CannotWrite(f"{error}; what is done is kept, and the same command goes on from there") from error
