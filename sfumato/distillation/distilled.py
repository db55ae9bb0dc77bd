"""A distilled edit: a trained student with its card, in one file, and how it is applied to images.

The file holds tensors and plain fields. The network is built from a fixed table of architectures, after the shapes in
the file were held to it: no code is in the file, and nothing is allocated by its word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sfumato import __version__, checks
from sfumato.distillation.one_step import ONE_STEP, OneStepArch, OneStepStudent
from sfumato.distillation.pairs import Pairs
from sfumato.distillation.student import Arch, Student
from sfumato.errors import UsageError
from sfumato.images import ImageSource, as_transparent, load_image, save_image, to_images, to_pixels
from sfumato.images.reading import by
from sfumato.json_input import check_fields
from sfumato.metrics.values import checked_pixels
from sfumato.models.base import Model
from sfumato.models.loading import here, load_model
from sfumato.tensorfile import Kind, load_tensors, save_tensors

KIND = Kind("distilled-edit", "make one with `sfumato distill`", "make it again, or copy it once more", UsageError)
STRENGTHS = (0.0, 2.0)
FAR = 2.0
"""How many times the size that it was trained at an image may have before that is noted."""

_whole, _number = partial(checks.whole, low=0), partial(checks.number, low=-1e12, high=1e12)
_CARD: Mapping[str, checks.Check] = {
    **dict.fromkeys(("source_prompt", "target_prompt", "model", "revision", "method", "data", "sfumato"), checks.text),
    "inversion": checks.optional(checks.text),
    **dict.fromkeys(("options", "inversion_options"), checks.table),
    "negative_prompt": checks.text,
    "num_inference_steps": checks.optional(_whole),
    "guidance_scale": checks.optional(_number),
    "size": checks.size,
    **dict.fromkeys(("seed", "pairs_made", "pairs_kept", "held_out", "steps"), _whole),
    "figures": lambda name, value: checks.table(name, value, _number),
    "notes": partial(checks.listed, check=checks.text),
}


@dataclass(frozen=True)
class Card:
    """Where a distilled edit comes from.

    Attributes:
        source_prompt, target_prompt: Of the edit; of the first pair where each has its own.
        model, revision: The teacher.
        method, inversion, options, inversion_options, num_inference_steps, guidance_scale, negative_prompt, seed: How
            it edited.
        size: (width, height) of the images that it was trained on.
        pairs_made, pairs_kept, held_out: Numbers of pairs; those held out are among the kept.
        data: SHA-256 of all kept pairs.
        steps: Of training.
        figures: Measured in training, by name: `held_out_score`, `held_out_psnr` (student to teacher, dB),
            `milliseconds` (of an image on one thread), `minutes` (of pairs and training) on so many `cores` (0: of no
            CPU).
        notes: What the user should know.
        sfumato: Version that made it.
    """

    source_prompt: str
    target_prompt: str
    model: str
    revision: str
    method: str
    size: tuple[int, int]
    pairs_made: int
    pairs_kept: int
    held_out: int
    data: str
    steps: int
    inversion: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    sfumato: str = __version__
    inversion_options: Mapping[str, Any] = field(default_factory=dict)
    negative_prompt: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a file holds it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Domain:
    """What a student's features of its training images are like; images far from them are none of its business.

    Attributes:
        mean, std: Of the features, (channels,).
        limit: Distance that 99 % of the images have at most.
    """

    mean: Tensor
    std: Tensor
    limit: float

    @classmethod
    def of(cls, features: Tensor) -> Domain:
        """Of features of many images, (images, channels)."""
        found = cls(features.mean(dim=0), features.std(dim=0) + 1e-3, 0.0)
        return cls(found.mean, found.std, float(found.distances(features).quantile(0.99)))

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], limit: float, channels: int) -> Domain:
        """Of the tensors of a file.

        Raises:
            UsageError: They are not those of a student of so many features.
        """
        mean, std = (tensors[f"domain/{name}"] for name in ("mean", "std"))
        if not all(one.shape == (channels,) and one.is_floating_point() for one in (mean, std)):
            raise UsageError(f"its domain is not that of {channels} features")
        if not (bool(mean.isfinite().all()) and bool((std > 0).all())):
            raise UsageError("its domain holds NaN, infinity or a spread of 0")
        return cls(mean.float(), std.float(), limit)

    def distances(self, features: Tensor) -> Tensor:
        """Of images, (images,): root mean square of the features in standard deviations from the mean."""
        return ((features - self.mean) / self.std).square().mean(dim=1).sqrt()


@dataclass(frozen=True)
class Applied:
    """An image with the edit.

    Attributes:
        image: RGB, or RGBA where the source has alpha; of the source's size.
        recipe: What made it.
        notes: What the user should know.
    """

    image: Image.Image
    recipe: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the image with its recipe; raises as `sfumato.images.save_image`."""
        return save_image(self.image, path, recipe=self.recipe)


class Distilled:
    """A trained student with its card.

    Attributes:
        student: The network, in evaluation mode.
        card: Where it comes from.
        domain: What its training images are like.
    """

    def __init__(self, student: Any, card: Card, domain: Domain) -> None:
        self.student, self.card, self.domain = student.eval().requires_grad_(False), card, domain

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(iter(self.student.parameters())).device
        return device

    @torch.no_grad()
    def __call__(self, pixels: Tensor, *, strength: float = 1.0) -> Tensor:
        """Edits pixels.

        Args:
            pixels: In [-1, 1], (batch, 3, height, width), of any size.
            strength: Share of the change, in [0, 2]; at 0 the pixels are those given, exactly.

        Raises:
            UsageError: The strength is out of range, or the pixels are of another type, shape or range.
        """
        try:
            checked_pixels(pixels)
        except ValueError as error:
            raise UsageError(str(error)) from error
        edited, _ = self._edited(pixels, strength)
        return edited

    def apply(self, image: ImageSource, *, strength: float = 1.0) -> Applied:
        """Edits one image of any size.

        Args:
            image: As `sfumato.images.load_image` takes it.
            strength: As in a call.

        Raises:
            ImageError: The image cannot be read.
            UsageError: The strength is out of range.
        """
        (found,) = self.apply_each([image], strength=strength)
        return found

    @torch.no_grad()
    def apply_each(self, images: Sequence[ImageSource], *, strength: float = 1.0) -> list[Applied]:
        """Edits several images, those of one size in one batch; raises as `apply`."""
        check_strength(strength)
        loaded = [load_image(image) for image in images]
        found: dict[int, Applied] = {}
        sizes = [one.image.size for one in loaded]
        for size in dict.fromkeys(sizes):
            rows = [row for row, own in enumerate(sizes) if own == size]
            pixels = torch.cat([to_pixels(loaded[row].image) for row in rows])
            edited, features = self._edited(pixels, strength)
            far = self.domain.distances(features) > self.domain.limit
            for row, image, outside in zip(rows, to_images(edited), far.tolist(), strict=True):
                one = loaded[row]
                if strength == 0:
                    image = one.image
                shown = image if one.rgba is None else as_transparent(image, one.rgba)
                notes = (*one.notes, *self._notes(size, outside))
                found[row] = Applied(shown, self.recipe(strength), notes)
        return [found[row] for row in range(len(loaded))]

    def recipe(self, strength: float) -> dict[str, Any]:
        """What an image says of itself."""
        card = self.card
        said = {"source_prompt": card.source_prompt, "target_prompt": card.target_prompt, "data": card.data}
        return {"command": "apply", "sfumato": __version__, "strength": strength, "distilled": said}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one `.safetensors` file, whole or not at all; read back it computes the same, bit for bit.

        Raises:
            UsageError: The name ends otherwise, or the folder cannot be written.
        """
        domain = {"domain/mean": self.domain.mean, "domain/std": self.domain.std}
        fields = {"arch": self.student.arch.to_json(), "card": self.card.to_json(), "limit": self.domain.limit}
        return save_tensors(path, {**stored(self.student), **domain}, fields, KIND)

    def _edited(self, pixels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Pixels and features, on the CPU."""
        check_strength(strength)
        pixels = pixels.to(self.device, torch.float32)
        edited = self.student(pixels)
        return torch.lerp(pixels, edited.pixels, strength).clamp(-1, 1).cpu(), edited.features.cpu()

    def _notes(self, size: tuple[int, int], outside: bool) -> list[str]:
        notes = []
        if max(size) > FAR * max(self.card.size):
            notes.append(
                f"the image has {by(size)} pixels, and the edit was learnt at {by(self.card.size)}: make it smaller"
            )
        if outside:
            notes.append("the image is unlike those that the edit was learnt from: look at the result")
        return notes


def load_distilled(path: str | os.PathLike[str], *, model: Model | None = None, device: str | None = None) -> Distilled:
    """Reads what `Distilled.save` wrote.

    Args:
        path: Of the file.
        model: What a student on a one-step network adapts; None: the one that the file names, where it is embedded or
            in the hub's cache. Others need none.
        device: Where it computes; None: the CPU, which is fast enough for a small student; the model's for others.

    Raises:
        UsageError: The file is missing, damaged, of another kind, or of a newer version; or it needs a model that is
            not on this computer, or another one than was given.
    """
    tensors, found, card = _read(path)
    try:
        one_step = found["arch"].get("name") == ONE_STEP
        student = _adapters(found["arch"], card, tensors, model, device) if one_step else _small(found["arch"], tensors)
        domain = Domain.read(tensors, found["limit"], student.channels)
    except (KeyError, UsageError) as error:
        raise UsageError(f"{path} does not fit this version of sfumato ({error}): {KIND.again}") from error
    return Distilled(student if one_step else student.to(device or "cpu"), card, domain)


def load_card(path: str | os.PathLike[str]) -> Card:
    """Reads where a distilled edit comes from, and opens no model.

    Raises:
        UsageError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return _read(path)[2]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any], Card]:
    """Tensors, checked fields and card of a file."""
    tensors, fields = load_tensors(path, KIND)
    what = f"the card of {path}"
    table: dict[str, checks.Check] = {
        "arch": checks.table,
        "card": checks.table,
        "limit": partial(checks.number, low=0.0, high=1e6),
    }
    found = check_fields(fields, table, what=f"the file {path}", remedy=KIND.again, error=UsageError)
    newer = ("inversion_options", "negative_prompt")  # the first files have none
    card = Card(**check_fields(found["card"], _CARD, optional=newer, what=what, remedy=KIND.again, error=UsageError))
    return tensors, found, card


def check_strength(strength: float) -> float:
    """Refuses a strength outside [0, 2]."""
    return checks.number("strength", strength, low=STRENGTHS[0], high=STRENGTHS[1])


def stored(student: Any) -> dict[str, Tensor]:
    """The weights as a file holds them, in half precision."""
    return {f"student/{name}": value.half() for name, value in student.state_dict().items()}


def rounded(student: Any) -> None:
    """Rounds the weights as a file will, so that what is measured is what is saved."""
    student.load_state_dict({name: value.half().to(value.dtype) for name, value in student.state_dict().items()})


@torch.no_grad()
def domain_of(student: Any, pairs: Pairs) -> Domain:
    """What the sources of all pairs look like to a student."""
    device = next(iter(student.parameters())).device
    rows = range(len(pairs))
    return Domain.of(torch.cat([student(pairs.pixels([row])[0].to(device)).features.cpu() for row in rows]))


def _small(arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Student:
    """The network with the weights of a file, whose shapes are compared before anything is allocated."""
    with torch.device("meta"):
        student = Student(Arch.from_json(arch))
    student.load_state_dict(_weights(student, tensors), assign=True)
    return student


def _adapters(
    arch: Mapping[str, Any], card: Card, tensors: Mapping[str, Tensor], model: Model | None, device: str | None
) -> OneStepStudent:
    """A student on a one-step network with the adapters of a file; a file opens no model that is not known here."""
    sizes = OneStepArch.from_json(arch)
    if model is None:
        revision = here(card.model)
        if revision is None:
            raise UsageError(
                f"it adapts the model {checks.shown(card.model)}, which is not opened by a file's word: load it, and"
                " give it as model (--model)"
            )
        model = load_model(card.model, revision=revision or None, device=device)
    if model.revision != card.revision:
        raise UsageError(f"it adapts revision {card.revision} of {card.model}, and the model has {model.revision}")
    student = OneStepStudent(model, card.target_prompt, sizes)
    student.load_state_dict(_weights(student, tensors))
    return student


def _weights(student: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file in float32.

    Raises:
        UsageError: They are not those of the student, or no numbers.
    """
    own = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    given = {name.removeprefix("student/"): value for name, value in tensors.items() if name.startswith("student/")}
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    wrong = [name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name)]
    if wrong:
        raise UsageError(f"its tensors are not those of its architecture, {min(wrong)} for one")
    if not all(bool(value.isfinite().all()) for value in given.values()):
        raise UsageError("its weights hold NaN or infinity")
    return {name: value.float() for name, value in given.items()}
