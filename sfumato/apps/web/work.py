"""What a form becomes: a run on a model, and from its result the facts and files that a client may ask for."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.api import edit_run
from sfumato.api.common import LOW_PSNR, seeded
from sfumato.api.cost import Cost, measured
from sfumato.api.requests import EditRequest, MorphRequest, SliderRequest
from sfumato.api.results import EditResult, MorphResult
from sfumato.api.source_image import read_source
from sfumato.apps.as_code import as_command, as_python
from sfumato.apps.console import cost_fields
from sfumato.apps.tradeoff import chosen_index
from sfumato.apps.web.forms import Form
from sfumato.apps.web.public import model_label, public_recipe, without_paths
from sfumato.edits.word_mask import heat_of_words
from sfumato.errors import UsageError
from sfumato.images import as_png, png_bytes
from sfumato.models.base import Model
from sfumato.sampling.turns import taking_turns
from sfumato.watch import Watch

if TYPE_CHECKING:
    from PIL import Image

MOVIES = (".webp", ".gif", ".mp4")
PLENTY = 1.0
"""dB below the autoencoder's own PSNR that do not show."""


@dataclass(frozen=True)
class Answer:
    """What came of a run: facts in JSON's types, and files by name, some of them made when they are asked for."""

    facts: Mapping[str, Any]
    files: Mapping[str, bytes | Callable[[], bytes]]
    size: int

    def file(self, name: str) -> bytes | None:
        """The file of that name, None where there is none."""
        found = self.files.get(name)
        return found() if callable(found) else found


def run_form(form: Form, model: Model, watch: Watch, sources: edit_run.Sources) -> Answer:
    """Runs what a client asked for.

    Args:
        form, model, watch: See `read_form` and `sfumato.edit`.
        sources: The inversions of this model that earlier runs made.
    """
    request = form.request
    if form.words:
        return _heat(form, model, watch)
    if isinstance(request, MorphRequest | SliderRequest):
        result = request.run(model, watch=watch)
        return _frames(form, model, result)
    request.check_models(watch, model=model)
    return _edit(form, model, edit_run.run(model, request, watch, sources=sources))


def _edit(form: Form, model: Model, result: EditResult) -> Answer:
    recipe = public_recipe(result.recipe, form.files)
    files: dict[str, bytes | Callable[[], bytes]] = {
        f"image-{k}.png": png_bytes(image, recipe) for k, image in enumerate(result.images)
    }
    files["source.png"], files["reconstruction.png"] = as_png([result.source]), as_png([result.reconstruction])
    files["difference.png"] = as_png([_difference(result.source, result.image)])
    files |= {f"tried-{k}.png": as_png([tried.image]) for k, tried in enumerate(result.tried)}
    words = [] if result.maps is None else _words(result, model)
    for branch, said in enumerate(words):
        for k, word in enumerate(said):
            heat = result.attention_map(word, target=branch - 1 if branch else None)
            files[f"heat-{branch}-{k}.png"] = _grey(heat)
    facts = {
        "images": len(result.images),
        "reconstruction": reconstruction_words(result.reconstruction_psnr, result.ceiling_psnr),
        "reconstruction_psnr": _finite(result.reconstruction_psnr),
        "ceiling_psnr": _finite(result.ceiling_psnr),
        "words": words,
        "tried": [
            {
                "method": tried.method,
                "options": dict(tried.options),
                "agreement": tried.agreement,
                "change": tried.change,
                "chosen": k == chosen_index(result),
            }
            for k, tried in enumerate(result.tried)
        ],
    }
    return _answer(form, model, recipe, result, facts, files, result.source.size)


def _frames(form: Form, model: Model, result: MorphResult) -> Answer:
    recipe = public_recipe(result.recipe, form.files)
    shared = replace(result, recipe=recipe)
    files: dict[str, bytes | Callable[[], bytes]] = {
        f"frame-{k}.png": png_bytes(image, recipe) for k, image in enumerate(result.images)
    }
    files |= {f"movie{kind}": _Movie(shared, kind) for kind in MOVIES}
    files |= {"strip.png": lambda: as_png([shared.film_strip()])}
    facts = {
        "frames": len(result.images),
        "weights": list(result.weights),
        "distances": list(result.distances),
        "even_distances": None if result.even_distances is None else list(result.even_distances),
        "spread": _finite(result.spread),
        "measure": recipe["distance"],
        "endpoint_psnr": [_finite(value) for value in result.endpoint_psnr],
        "ceiling_psnr": [_finite(value) for value in result.ceiling_psnr],
    }
    held = sum(image.width * image.height * len(image.getbands()) for image in result.images)
    answer = _answer(form, model, recipe, result, facts, files, result.images[0].size)
    return replace(answer, size=answer.size + held)


def _heat(form: Form, model: Model, watch: Watch) -> Answer:
    """Where the attention to words of the source prompt is in the image, from 0 to 1."""
    request = form.request
    if not isinstance(request, EditRequest) or request.image is None:
        raise UsageError("the attention to words needs an image: give one")
    image = read_source(model, request.image, request.size, request.fit, request.background)
    with taking_turns(model, watch=watch), measured(model) as cost, torch.no_grad():
        heat = heat_of_words(
            model, model.encode_image(image.pixels.to(model.device)), request.source_prompt, form.words,
            generator=seeded(request.seed), watch=watch.during("looking"),
        )[0, 0].float().cpu()  # fmt: skip
    low, high = float(heat.min()), float(heat.max())
    grey = _grey((heat - low) / max(high - low, 1e-12))
    return Answer({"kind": "words", "cost": cost_fields(cost)}, {"heat.png": grey}, len(grey))


def _answer(
    form: Form,
    model: Model,
    recipe: Mapping[str, Any],
    result: EditResult | MorphResult,
    facts: Mapping[str, Any],
    files: Mapping[str, bytes | Callable[[], bytes]],
    size: tuple[int, int],
) -> Answer:
    """What all results say."""
    request, label = form.request, model_label(model.name)
    files_named = {name: value for name, value in form.files.items() if name in ("image", "images", "mask")}
    output = "result.png" if request.command == "edit" else "result.webp"
    cost: Cost = result.cost
    said = {
        "kind": request.command,
        "size": list(size),
        "notes": [without_paths(note) for note in dict.fromkeys(result.notes)],
        "cost": cost_fields(cost),
        "recipe": dict(recipe),
        "command": as_command(request, model=label, files=files_named, output=output),
        "python": as_python(request, model=label, files=files_named, output=output),
        **facts,
    }
    return Answer(said, files, sum(len(file) for file in files.values() if isinstance(file, bytes)))


@dataclass(frozen=True)
class _Movie:
    """Makes the movie of a result when it is asked for."""

    result: MorphResult
    kind: str

    def __call__(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return self.result.save(Path(folder) / f"movie{self.kind}").read_bytes()


def reconstruction_words(psnr: float, ceiling: float) -> str:
    """How close the reconstruction is to the source, for somebody who does not know decibels."""
    if math.isinf(ceiling) or math.isinf(psnr):
        return "The source was drawn by the model, so it is exact."
    if math.isnan(ceiling) or math.isnan(psnr):
        return "How close the reconstruction is to the source is not known."
    numbers = f"({psnr:.1f} dB; the model's best is {ceiling:.1f})"
    if ceiling < LOW_PSNR:
        return f"The model itself shows such an image poorly {numbers}. A larger size may help."
    if psnr >= ceiling - PLENTY:
        return f"The reconstruction is as close to the source as this model allows {numbers}."
    if psnr >= ceiling - 3 * PLENTY:
        return f"The reconstruction is close to the source {numbers}."
    if psnr >= LOW_PSNR:
        return f"The reconstruction lost some of the source {numbers}. More steps keep more of it."
    return f"The reconstruction lost much of the source {numbers}. Say better what the image shows, or use more steps."


def _words(result: EditResult, model: Model) -> list[list[str]]:
    """The words of the source prompt and of each target, as far as their attention is known."""
    prompts = [result.recipe["source_prompt"], *result.recipe["target_prompts"]]
    known: list[list[str]] = []
    for branch, prompt in enumerate(prompts):
        words = dict.fromkeys(word for word, _ in model.text.words(prompt) if re.search(r"\w", word))
        known.append([word for word in words if _has_map(result, word, branch)])
    return known


def _has_map(result: EditResult, word: str, branch: int) -> bool:
    try:
        result.attention_map(word, target=branch - 1 if branch else None)
    except UsageError:
        return False
    return True


def _grey(heat: torch.Tensor) -> bytes:
    """A map in [0, 1] as a grey PNG."""
    from PIL import Image

    return png_bytes(Image.fromarray((heat.clamp(0, 1) * 255).round().to(torch.uint8).numpy()))


def _difference(source: Image.Image, image: Image.Image) -> Image.Image:
    """Where an edit changed its source, bright where it did most; grey."""
    from PIL import Image

    if source.size != image.size:
        source = source.resize(image.size)
    pair = [np.asarray(one.convert("RGB"), dtype=np.float32) for one in (source, image)]
    change = np.abs(pair[0] - pair[1]).max(axis=2)
    return Image.fromarray(np.rint(change * (255.0 / max(float(change.max()), 1.0))).astype(np.uint8))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
