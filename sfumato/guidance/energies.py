r"""Energies: functions that measure how far images are from what is wanted; the lower, the better.

There are two kinds. An `Energy` is of images (or latents), for Langevin sampling of the code. An `Expert` is of
noisy latents beside the source's at the same noise level and serves EGSDE. Both give one number an image,
differentiable in their input. `energies_by_name` has those that an option can name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.base import Condition, Model
from sfumato.models.schedules import Step
from sfumato.sampling.draws import Generators, streams


@runtime_checkable
class Energy(Protocol):
    """From images or latents, (image, channels, height, width), to one number an image, (image,)."""

    def __call__(self, images: Tensor, /) -> Tensor: ...


@runtime_checkable
class Expert(Protocol):
    """From noisy latents and the source's at the same level, both (rows, channels, height, width), to (rows,)."""

    def __call__(self, latents: Tensor, reference: Tensor, step: Step, /) -> Tensor: ...


@dataclass(frozen=True)
class Quadratic:
    """Half the squared distance to a target, summed over channels and places.

    Attributes:
        target: One for all, (1, channels, height, width), or one an image.
    """

    target: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        if self.target.shape[1:] != images.shape[1:] or len(self.target) not in (1, len(images)):
            raise UsageError(
                f"the target has shape {tuple(self.target.shape)}, what is compared with it {tuple(images.shape)}:"
                " encode or resize the target to fit"
            )
        energy: Tensor = 0.5 * (images - self.target.to(images)).square().flatten(1).sum(dim=1)
        return energy


@dataclass(frozen=True)
class ClassLabel:
    """How little a classifier believes in a class: -log p(label | image).

    Source: Wu and De la Torre, 2022, https://arxiv.org/abs/2210.05559 (attribute classifiers, weight 5).

    Attributes:
        classifier: From images to logits, (image, classes).
        label: The wanted class.
    """

    classifier: Callable[[Tensor], Tensor]
    label: int

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.classifier(images)
        if logits.ndim != 2 or len(logits) != len(images) or not 0 <= self.label < logits.shape[1]:
            raise UsageError(
                f"the classifier must give logits (image, classes) that hold class {self.label}, got"
                f" {tuple(logits.shape)} for {len(images)} images"
            )
        return -logits.log_softmax(dim=1)[:, self.label]


@dataclass(frozen=True)
class TextAgreement:
    """How little an image fits a text: 1 - cosine of their embeddings, averaged over random views of the image.

    Source: Wu and De la Torre, 2022 (CLIP, 50 views, weight 100 to 1000).

    Differs from the authors' code: a view is a random shift, zoom and rotation; theirs also jitters colours and erases.

    Attributes:
        encode_image: Image side of a CLIP-like dual encoder: pixels (rows, 3, H, W) to (rows, dim).
        text_embeds: What its text side gives, one text for all, (1, dim), or one an image.
        views: Random views an image and call, at least 0; 0: the image itself. Views keep the gradient from finding
            patterns that please the encoder only.
        generator: Draws the views.
    """

    encode_image: Callable[[Tensor], Tensor]
    text_embeds: Tensor
    views: int = 0
    generator: Generators = None

    def __call__(self, images: Tensor) -> Tensor:
        count = max(self.views, 1)
        seen = images
        if self.views > 0:
            seen = random_views(images.repeat_interleave(count, dim=0), self.generator, views=count)
        embeds = self.encode_image(seen)
        if embeds.ndim != 2 or len(embeds) != len(seen) or self.text_embeds.shape[-1] != embeds.shape[-1]:
            raise UsageError(
                f"image embeddings {tuple(embeds.shape)} and text embeddings {tuple(self.text_embeds.shape)} do not"
                " fit: both must be (rows, dim), from one dual encoder"
            )
        texts = self.text_embeds.to(embeds).expand(len(images), -1).repeat_interleave(count, dim=0)
        agreement: Tensor = F.cosine_similarity(embeds, texts, dim=-1).unflatten(0, (-1, count)).mean(dim=1)
        return 1.0 - agreement


@dataclass(frozen=True)
class LowPassDistance:
    """EGSDE's domain-independent expert: squared distance of what is left after low-pass filtering both.

    Source: Zhao et al., 2022, https://arxiv.org/abs/2207.06635.

    Attributes:
        cells: Grid that both are reduced to, see `low_pass`.
    """

    cells: int = 8

    def __call__(self, latents: Tensor, reference: Tensor, step: Step) -> Tensor:
        difference = low_pass(latents - reference, self.cells)
        return difference.square().flatten(1).sum(dim=1)


@dataclass(frozen=True)
class FeatureSimilarity:
    """EGSDE's realism expert: cosine similarity of features that tell the domains apart, averaged over places.

    Low where the image has lost what marks the source's domain.

    Source: Zhao et al., 2022; there the features are those of a classifier of the two domains, trained on
    noisy images.

    Attributes:
        features: From noisy latents, (rows, channels, height, width), and the step to (rows, dim, height', width').
    """

    features: Callable[[Tensor, Step], Tensor]

    def __call__(self, latents: Tensor, reference: Tensor, step: Step) -> Tensor:
        with torch.no_grad():
            theirs = self.features(reference, step)
        similarity: Tensor = F.cosine_similarity(self.features(latents, step), theirs, dim=1).flatten(1).mean(dim=1)
        return similarity


@dataclass(frozen=True)
class NoisyClassLabel:
    """A classifier as a realism expert: -log p(label | noisy latents, step).

    Attributes:
        classifier: From noisy latents and the step to logits, (rows, classes).
        label: The class that the image should belong to.
    """

    classifier: Callable[[Tensor, Step], Tensor]
    label: int

    def __call__(self, latents: Tensor, reference: Tensor, step: Step) -> Tensor:
        return ClassLabel(lambda seen: self.classifier(seen, step), self.label)(latents)


@dataclass(frozen=True)
class CoarseDistance:
    """Half the squared distance to a target of what is left after low-pass filtering both.

    Attributes:
        target: One an image, (image, channels, height, width).
        cells: Grid that both are reduced to, see `low_pass`.
    """

    target: Tensor
    cells: int = 8

    def __call__(self, images: Tensor) -> Tensor:
        energy: Tensor = 0.5 * low_pass(images - self.target.to(images), self.cells).square().flatten(1).sum(dim=1)
        return energy


@dataclass(frozen=True)
class OfImages:
    """An energy of images as one of latents.

    Attributes:
        energy: Of pixels, (image, 3, H, W).
        decode: Latents to pixels, differentiable.
    """

    energy: Energy
    decode: Callable[[Tensor], Tensor]

    @property
    def __name__(self) -> str:
        return getattr(self.energy, "__name__", type(self.energy).__name__)

    def __call__(self, images: Tensor) -> Tensor:
        return self.energy(self.decode(images))


@dataclass(frozen=True)
class WeightedSum:
    """Several energies as one.

    Attributes:
        terms: (weight, energy) pairs.
    """

    terms: tuple[tuple[float, Energy], ...]

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([weight * evaluated(energy, images) for weight, energy in self.terms]).sum(dim=0)


@dataclass(frozen=True)
class OnEstimate:
    """An energy of clean latents as an expert: of the model's estimate of them.

    The gradient goes through the network: 1 evaluation with a backward pass a step and row.

    Reference: Bansal et al., 2023, https://arxiv.org/abs/2302.07121, forward universal guidance.

    Attributes:
        energy: Of clean latents.
        model: Estimates them.
        condition: What it is conditioned on, one row a row of latents.
    """

    energy: Energy
    model: Model
    condition: Condition

    def __call__(self, latents: Tensor, reference: Tensor, step: Step) -> Tensor:
        return self.energy(self.estimate(self.model, self.condition, latents, step))

    @staticmethod
    def estimate(model: Model, condition: Condition, latents: Tensor, step: Step) -> Tensor:
        """The clean latents that the model sees in noisy ones, same shape; differentiable."""
        output = model.predict(latents, step.time, condition.expand(len(latents)))
        return model.schedule.split(output, latents, step.level).x0


def low_pass(latents: Tensor, cells: int) -> Tensor:
    """What is left of latents after reducing their shorter side to `cells` and enlarging them again, same shape.

    Bicubic both ways, as ILVR's filter. With as many cells as the side has, nothing is lost.
    """
    height, width = latents.shape[-2:]
    side = min(height, width)
    if cells >= side:
        return latents
    small = (max(1, round(height * cells / side)), max(1, round(width * cells / side)))
    reduced = F.interpolate(latents, size=small, mode="bicubic", antialias=True)
    return F.interpolate(reduced, size=(height, width), mode="bicubic")


def random_views(images: Tensor, generator: Generators = None, *, views: int = 1) -> Tensor:
    """Each row shifted (up to 10 %), zoomed (0.9 to 1.3) and rotated (up to 10 degrees) at random, same shape.

    Args:
        images: (rows, 3, H, W), `views` rows an image side by side.
        generator: Draws how.
        views: Rows an image.
    """
    parts = [
        torch.rand(views, 4, generator=stream, device=images.device if stream is None else stream.device)
        for stream in streams(generator, len(images) // views)
    ]
    drawn = 2 * torch.cat(parts).to(images) - 1
    angle, zoom = drawn[:, 0] * torch.pi / 18, 1 / (1.1 + 0.2 * drawn[:, 1])
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift = 0.2 * drawn[:, 2:]  # the image spans 2
    rows = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def evaluated(energy: Energy, images: Tensor) -> Tensor:
    """The energy of each image, (image,).

    Raises:
        UsageError: The energy gives another shape, or something that is not a number.
    """
    return checked(energy(images), len(images), energy)


def checked(values: Tensor, images: int, energy: object) -> Tensor:
    """Values that an energy gave, when there is one finite number an image; errors as `evaluated`."""
    name = getattr(energy, "__name__", type(energy).__name__)
    if not isinstance(values, Tensor) or values.shape != (images,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(f"energy {name} must give one number an image, ({images},), got {shape}")
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"energy {name} gave NaN or infinity; lower its weight or the step size, or correct it")
    return values


def total(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Weighted sum of energies over images: a scalar to differentiate."""
    return torch.stack([weight * values.sum() for weight, values in terms]).sum()
