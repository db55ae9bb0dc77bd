"""From what a client sent to a checked request: the same checks as everywhere, and bounds for strangers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sfumato import checks
from sfumato.api.recipe import FILES, MOST_AREA, NETWORKS, is_too_much
from sfumato.api.requests import EditRequest, MorphRequest, SliderRequest
from sfumato.apps.web.uploads import Upload
from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from sfumato.json_input import check_fields
from sfumato.models.base import Model
from sfumato.morphs.method import MORPHS
from sfumato.morphs.spacings.base import SPACINGS
from sfumato.registry import Entry

KINDS: Mapping[str, type[EditRequest | MorphRequest]] = {
    kind.command: kind for kind in (EditRequest, SliderRequest, MorphRequest)
}
WORDS = "words"
"""The command of a form that asks where the attention to some words of the source prompt is."""
NAMELESS = ("image", "images", "inverted")
"""What a request may not name itself: the form names uploads instead."""


@dataclass(frozen=True)
class Limits:
    """What one run may ask for.

    Attributes:
        upload_bytes, pixels: Of a file, and of the image in it.
        steps, encode_steps, targets, frames, prompt, images: Numbers of each; characters of a prompt.
    """

    upload_bytes: int = 20 * 2**20
    pixels: int = 4096 * 4096
    steps: int = 200
    encode_steps: int = 200
    targets: int = 4
    frames: int = 64
    prompt: int = 1_000
    images: int = 8


@dataclass(frozen=True)
class Form:
    """A run that a client asks for.

    Attributes:
        request: Complete and checked, the client's images in it.
        words: Of which attention is asked for, instead of an edit.
        files: What the client called the image, the images and the mask.
        pixels: Of all images together.
    """

    request: EditRequest | MorphRequest
    words: tuple[str, ...]
    files: Mapping[str, Any]
    pixels: int


def read_form(values: Any, model: Model, find: Callable[[str], Upload | None], limits: Limits) -> Form:
    """Reads `{"request": ..., "image": id, "images": [ids], "mask": id}`.

    Args:
        values: From a client. The request is the JSON of an edit, a slider or a morph without its images, or of
            `{"command": "words", "words": [...]}` and what an edit says of its source.
        model: That will run it.
        find: Gives an upload by its id.
        limits: What a run may ask for.

    Raises:
        UsageError: Something is unknown, does not fit, or is too much.
    """
    table: Mapping[str, checks.Check] = {
        "model": checks.text,
        "request": checks.table,
        "image": checks.optional(checks.text),
        "mask": checks.optional(checks.text),
        "images": lambda name, value: checks.listed(name, value, checks.text, most=limits.images),
    }
    given = check_fields(
        values, table, optional=table.keys() - {"request"}, what="the form", remedy="reload the page", error=UsageError
    )
    found: dict[str, Any] = {
        name: [_upload(find, one) for one in given[name]] if name == "images" else _upload(find, given[name])
        for name in ("image", "images", "mask")
        if given.get(name)
    }
    request, words = _request(given["request"], found)
    if isinstance(request, EditRequest):
        request = request.suited(model)
    _check_limits(request, model, limits)
    pixels = _pixels(request, found, model)
    names = {key: [one.name for one in part] if key == "images" else part.name for key, part in found.items()}
    return Form(request, words, names, pixels)


def _upload(find: Callable[[str], Upload | None], upload_id: str) -> Upload:
    upload = find(upload_id)
    if upload is None:
        raise UsageError("the image is not on the server any more: give it again")
    return upload


def _request(values: dict[str, Any], found: Mapping[str, Any]) -> tuple[EditRequest | MorphRequest, tuple[str, ...]]:
    """The request that a client's JSON and images make, and the words whose attention is asked for."""
    for name in NAMELESS:
        if values.get(name) is not None:
            raise UsageError(f"a request here does not name its {name}: the form does")
    words: tuple[str, ...] = ()
    command = values.get("command")
    if command == WORDS:
        words = tuple(checks.listed("words", values.pop("words", None), checks.text, fewest=1, most=16))
        values = {**values, "command": "edit", "target_prompts": [values.get("source_prompt", "")]}
    elif not isinstance(command, str) or command not in KINDS:
        raise UsageError(f"command must be one of {', '.join([*KINDS, WORDS])}, got {checks.shown(command)}")
    mask = values.get("mask")
    if isinstance(mask, Mapping) and (mask.get("path") is not None or mask.get("sha256") is not None):
        raise UsageError("a request here does not name its mask: the form does")
    kind = KINDS[values["command"]]
    images = found.get("images", [])
    if kind is MorphRequest:
        values = {**values, "images": [{} for _ in images]}
    request = _from_json(kind, {name: part for name, part in values.items() if name not in ("image", "inverted")})
    if isinstance(request, MorphRequest):
        return replace(request, images=tuple(image.data for image in images), store=False), words
    image = found["image"].data if "image" in found else None
    if request.mask is not None and "mask" not in found:
        raise UsageError("the mask is missing: paint one, or name words")
    return replace(request, image=image, mask=found["mask"].data if request.mask is not None else None), words


def _from_json(kind: type[EditRequest | MorphRequest], values: dict[str, Any]) -> EditRequest | MorphRequest:
    """The request, or the sentence of the value that does not fit, by itself."""
    try:
        return kind.from_json(values, what="the request", remedy="correct it")
    except UsageError as error:
        raise (error.__cause__ if isinstance(error.__cause__, UsageError) else error) from None


def _check_limits(request: EditRequest | MorphRequest, model: Model, limits: Limits) -> None:
    """Refuses what is more than a run here may ask for, and options that open files or networks."""
    if isinstance(request, MorphRequest):
        targets, texts, legs = 0, [*(request.prompts or ("",))], len(request.images) - 1
    else:
        targets, texts, legs = len(request.targets), [request.source_prompt, *request.targets], 1
    texts.append(request.negative_prompt or "")
    frames = getattr(request, "num_frames", 0)
    for what, amount, most in (
        ("steps", request.num_inference_steps or 0, limits.steps),
        ("encode steps", request.encode_steps, limits.encode_steps),
        ("targets", targets, limits.targets),
        ("frames", legs * (frames - 1) + 1, limits.frames),
        ("characters in a prompt", max(map(len, texts)), limits.prompt),
    ):
        if amount > most:
            raise UsageError(f"{amount} {what}: here {most} are the most")
    for entry, options in _entries(request):
        for name, value in entry.check_options(options).items():
            if name in FILES or (name in NETWORKS and value not in (None, model.encoder)):
                raise UsageError(f"{name} names a file or a network, which the page does not open: use the command")
            if is_too_much(entry.parameters[name], value):
                raise UsageError(f"{name}={checks.shown(value)} is more than a run here may ask for")


def _entries(request: EditRequest | MorphRequest) -> list[tuple[Entry[Any], Mapping[str, Any]]]:
    """Whatever has options in a request, with these."""
    if isinstance(request, MorphRequest):
        method: Entry[Any] = MORPHS[request.method]
        return [(method, request.options), (SPACINGS[request.spacing or "uniform"], request.spacing_options or {})]
    found: list[tuple[Entry[Any], Mapping[str, Any]]] = [(request.entry, request.options)]
    inversion = request.inversion or request.entry.default_inversion
    if inversion and request.inversion_options:
        found.append((INVERSIONS[inversion], request.inversion_options))
    if isinstance(request, SliderRequest):
        found.append((SPACINGS[request.spacing], request.spacing_options or {}))
        for name in request.vary or {}:
            if name in FILES | set(NETWORKS):
                raise UsageError(f"{name} cannot be varied here")
    return found


def _pixels(request: EditRequest | MorphRequest, found: Mapping[str, Any], model: Model) -> int:
    """Pixels of all images of a run.

    Raises:
        UsageError: They are far more than the model was trained at.
    """
    height, width = model.sample_size
    uploads = [*found.get("images", []), *([found["image"]] if "image" in found else [])]
    size = request.size or (uploads[0].size if uploads else (width, height))
    if size[0] * size[1] > MOST_AREA * height * width:
        raise UsageError(
            f"{size[0]}x{size[1]} pixels are too many for {model.name.rpartition('/')[2]}, which was trained at"
            f" {width}x{height}: choose a smaller size"
        )
    count = 1 + len(request.targets) if isinstance(request, EditRequest) else len(uploads)
    return count * size[0] * size[1]
