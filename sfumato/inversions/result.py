"""`Inversion`: what a replay needs, in memory and in one `.safetensors` file keyed by content."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato import checks
from sfumato.errors import InversionError
from sfumato.json_input import check_fields
from sfumato.models.base import Condition
from sfumato.sampling.bdia import BDIA
from sfumato.sampling.ddpm import NoiseMaps
from sfumato.sampling.solvers import CarriedMidpoint, Solver, midpoint
from sfumato.tensorfile import Kind, content_hash, load_tensors, save_tensors

_KIND = Kind("inversion", "make one with `sfumato invert` or Inversion.save", "invert again", InversionError)
_TENSORS = (
    "noise", "trajectory", "noise_maps", "null_embeds", "correction", "residuals", "source_image"
)  # fmt: skip
_EXTRA = re.compile(r"null_(\w+)_embeds")
"""Names of `null_extras` in files."""


def _time(name: str, value: Any) -> float:
    """The time of a step; a whole one stays whole, so that fingerprints do."""
    check = checks.whole if isinstance(value, int) else checks.number
    return check(name, value, low=0, high=10**6)


def _same(time: float, other: float) -> bool:
    """Whether two times are one but for rounding."""
    return math.isclose(time, other, rel_tol=1e-9, abs_tol=1e-6)


_SHARE = partial(checks.number, low=0.0, high=1.0)
_FIELDS: Mapping[str, checks.Check] = {
    "method": partial(checks.text, most=200, empty="it says which inversion it is"),
    "timesteps": partial(checks.listed, check=_time, fewest=1, most=10_000),
    "gamma": _SHARE,
    "pinned": checks.flag,
    "unscaled_maps": checks.flag,
    "eta": _SHARE,
    "prompt": checks.text,
    "negative_prompt": checks.text,
    "guidance_scale": checks.guidance,
    "seed": checks.optional(partial(checks.whole, low=checks.SEEDS[0], high=checks.SEEDS[1])),
    "model": checks.text,
    "picture": checks.text,
    "key": checks.text,
    "start_index": partial(checks.whole, low=0),
}
_NEW = ("negative_prompt", "seed", "unscaled_maps")  # which earlier files do not have
_IN_FILES = {"model_revision": "model", "image_sha256": "picture"}
"""Fields that have another name in files: the format, and with it the fingerprints in recipes, stays as it was."""


@dataclass(frozen=True)
class Inversion:
    """An inverted image: inverted once, edited many times. `sample(replay=...)` consumes it.

    Attributes:
        method: Which inversion made it.
        noise: x_T, (image, channels, height, width).
        timesteps: Times of its grid, noisiest first: whole training timesteps, or any numbers where the model has none.
            Everything else goes by the index of a step.
        trajectory: Latents x_0 ... x_T, (steps + 1, image, channels, height, width), or None.
        noise_maps: Noise consumed by each step in sampling order, (steps, image, channels, height, width), or None.
        null_embeds: Embedding in place of the empty prompt's, in sampling order, (steps, image, tokens, dim), or None.
        null_extras: Extras of the condition that go with it, by name, (image, ...); others are as they are.
        correction: First correction of the stepper BDIA, (image, channels, height, width), or None.
        residuals: How far each step missed while inverting, one entry an iteration, in sampling order,
            (steps, image, iterations), NaN where none was run; what is measured, the inversion says. Or None.
        gamma: Weight of the look back of the stepper BDIA; 0: the replay takes DDIM steps.
        pinned: The replay sets the source branch to the trajectory after every step.
        eta: Stochasticity that the noise maps belong to.
        unscaled_maps: The noise maps are added to DDPM's mean as they are, see `sampling.ddpm.NoiseMaps`.
        source_image: The fitted image itself, (height, width, 3) uint8, or None where it was not kept.
        prompt, negative_prompt: That it was made with.
        guidance_scale: Guidance that it was made with.
        seed: Of the draws that it was made with, or None where that is not known.
        model_revision: Revision of the model.
        image_sha256: SHA-256 of the fitted image's pixels, or "" for latents given directly.
        key: Content hash of image, model and options, see `tensorfile.content_key`.
        start_index: First step of its replay; `noise` is at that step's level, and the trajectory ends there.
        file: Where it was loaded from, or None; not kept in files.
    """

    method: str
    noise: Tensor
    timesteps: tuple[float, ...]
    trajectory: Tensor | None = None
    noise_maps: Tensor | None = None
    null_embeds: Tensor | None = None
    null_extras: Mapping[str, Tensor] = field(default_factory=dict, hash=False)
    correction: Tensor | None = None
    residuals: Tensor | None = None
    source_image: Tensor | None = None
    gamma: float = 0.0
    pinned: bool = False
    eta: float = 0.0
    unscaled_maps: bool = False
    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    seed: int | None = None
    model_revision: str = ""
    image_sha256: str = ""
    key: str = ""
    start_index: int = 0
    file: str | None = field(default=None, compare=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it holds: equal for two inversions exactly where their replays are."""
        return content_hash(self._tensors, json.dumps(self._fields))

    @property
    def _tensors(self) -> dict[str, Tensor]:
        """All tensors, by their names in files."""
        extras = {f"null_{name}_embeds": tensor for name, tensor in self.null_extras.items()}
        return {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None} | extras

    @property
    def _fields(self) -> dict[str, Any]:
        """All but the tensors, by their names in files."""
        out = (*_TENSORS, "null_extras", "file", *(() if self.unscaled_maps else ("unscaled_maps",)))
        names = [entry.name for entry in fields(self) if entry.name not in out]  # without news, fingerprints stay
        return {_IN_FILES.get(name, name): getattr(self, name) for name in names}

    @property
    def clean(self) -> Tensor:
        """The image's own latents x_0, (image, channels, height, width).

        Raises:
            InversionError: The inversion keeps no trajectory.
        """
        return self.latents_at(len(self.timesteps))

    def holds(self, index: int) -> bool:
        """Whether its trajectory has the latents before the step of an index."""
        return self.trajectory is not None and 0 <= len(self.timesteps) - index < len(self.trajectory)

    def latents_at(self, index: int) -> Tensor:
        """Latents before the step of an index, (image, channels, height, width).

        Args:
            index: In sampling order, 0 for the noisiest; the number of steps: the clean image.

        Raises:
            InversionError: The inversion does not hold them, or no trajectory.
        """
        if self.trajectory is None:
            raise InversionError(
                f"this {self.method} inversion holds no trajectory, which is needed here: invert again"
            )
        if not self.holds(index):
            raise InversionError(
                f"the inversion holds no latents before step {index + 1} of {len(self.timesteps)}: it holds those of"
                f" the last {len(self.trajectory) - 1}"
            )
        return self.trajectory[len(self.timesteps) - index]

    def index_at(self, time: float) -> int | None:
        """Index of the step at a time, None where its grid has none."""
        return next((index for index, held in enumerate(self.timesteps) if _same(held, time)), None)

    def on_grid(self, timesteps: Sequence[float]) -> Inversion:
        """Its latents on a part of its grid; what its own steps consume is left out.

        Args:
            timesteps: Times of a run, noisiest first.

        Raises:
            InversionError: It does not hold the latents at one of them.
        """
        indices = [self.index_at(time) for time in timesteps]
        if None in indices:
            time = timesteps[indices.index(None)]
            raise InversionError(
                f"the inversion holds no latents at timestep {time:g}; sample on its own grid of {len(self.timesteps)}"
                " steps"
            )
        latents = [self.latents_at(index) for index in indices if index is not None]
        return Inversion(
            self.method, latents[0], tuple(timesteps), trajectory=torch.stack([self.clean, *reversed(latents)])
        )

    @property
    def stepper(self) -> BDIA | NoiseMaps | None:
        """What replays it; None: any."""
        if self.unscaled_maps:
            return NoiseMaps()
        return None if self.correction is None else BDIA(self.gamma, self.correction)

    @property
    def solver(self) -> Solver | None:
        """A solver for one replay of it; None: Euler's steps, or the stepper's."""
        solvers: dict[str, Solver] = {"rf-solver": midpoint, "fireflow": CarriedMidpoint()}
        return solvers.get(self.method)

    def check(
        self,
        *,
        model_revision: str,
        timesteps: tuple[float, ...],
        image_sha256: str = "",
        latent_shape: tuple[int, int, int] | None = None,
        empty: Condition | None = None,
    ) -> None:
        """Refuses a run that this inversion cannot be replayed in.

        Args:
            model_revision: The model's.
            timesteps: Of the run.
            image_sha256: SHA-256 of the image's pixels, where there is one.
            latent_shape: (channels, height, width) of the image's latents, where there is one, for the model.
            empty: The model's empty prompt, one row.

        Raises:
            InversionError: It was made with another model, of another image, on another grid, or holds several
                images.
        """
        if self.image_sha256 and image_sha256 and self.image_sha256 != image_sha256:
            raise InversionError("the inversion was made of another image: invert this one")
        if self.model_revision and self.model_revision != model_revision:
            raise InversionError(
                f"the inversion was made with model {self.model_revision}, not {model_revision}: invert again with this"
                " model"
            )
        if len(self.timesteps) != len(timesteps) or not all(map(_same, self.timesteps, timesteps)):
            raise InversionError(
                f"the inversion has {len(self.timesteps)} steps ({self.timesteps[0]:g} ... {self.timesteps[-1]:g}), the"
                f" run {len(timesteps)} ({timesteps[0]:g} ... {timesteps[-1]:g}): use"
                f" num_inference_steps={len(self.timesteps)} or invert again"
            )
        if len(self.noise) != 1:
            raise InversionError(f"the inversion is of {len(self.noise)} images: invert one")
        shape = tuple(self.noise.shape[1:])
        if latent_shape is not None and shape != latent_shape:
            raise InversionError(
                f"the inversion's noise has shape {shape}, the image's latents {latent_shape}: invert again"
            )
        if empty is not None:
            self._check_null(empty)

    def _check_null(self, empty: Condition) -> None:
        """Refuses what stands in the empty prompt's place where the model's own is another, one row."""
        if self.null_embeds is not None:
            (tokens, dim), own = self.null_embeds.shape[-2:], empty.text.shape[-1]
            if dim != own or tokens % empty.tokens:
                raise InversionError(
                    f"the inversion's text embeddings have {dim} channels, the model's {own}: invert again"
                )
        for name, tensor in self.null_extras.items():
            shape = tuple(tensor.shape[1:])
            known = tuple(empty.extras[name].shape[1:]) if name in empty.extras else None
            if shape != known:
                its = "the model has none" if known is None else f"the model's {known}"
                raise InversionError(f"the inversion's {name} embedding has shape {shape}, {its}: invert again")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one `.safetensors` file, whole or not at all.

        Raises:
            InversionError: The folder does not exist or cannot be written, or the name ends otherwise.
        """
        return save_tensors(path, self._tensors, self._fields, _KIND)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inversion:
        """Reads what `save` wrote.

        Raises:
            InversionError: The file is missing, damaged, or no sfumato inversion.
        """
        tensors, values = load_tensors(path, _KIND)
        plain = check_fields(
            values, _FIELDS, optional=_NEW, what=f"the inversion {path}", remedy=_KIND.again, error=InversionError
        )
        extras = {match[1]: tensors.pop(match[0]) for match in map(_EXTRA.fullmatch, list(tensors)) if match}
        foreign = sorted(tensors.keys() - set(_TENSORS))
        if foreign or "noise" not in tensors:
            what = f"unknown tensor {checks.shown(foreign[0])}" if foreign else "no noise"
            raise InversionError(f"{path} is damaged ({what}): {_KIND.again}")
        plain["timesteps"] = tuple(plain["timesteps"])
        for name, in_files in _IN_FILES.items():
            plain[name] = plain.pop(in_files)
        inversion = cls(**{**plain, **tensors, "null_extras": extras, "file": os.fspath(path)})
        inversion.check_tensors()
        return inversion

    def check_tensors(self) -> None:
        """Refuses tensors whose shapes do not fit one another, or that are not finite numbers.

        Raises:
            InversionError: Names the tensor.
        """
        noise, steps = self.noise, len(self.timesteps)
        if not isinstance(noise, Tensor) or noise.ndim != 4 or noise.numel() == 0:
            raise InversionError(
                f"the inversion is damaged (noise is no (image, channels, height, width)): {_KIND.again}"
            )
        if not 0 <= self.start_index < steps or any(a <= b for a, b in itertools.pairwise(self.timesteps)):
            raise InversionError(f"the inversion is damaged (its timesteps do not fall): {_KIND.again}")
        images, grid = len(noise), tuple(noise.shape)
        wanted: dict[str, tuple[int | None, ...]] = {
            "noise": grid,
            "trajectory": (1 if self.method == "picture" else steps - self.start_index + 1, *grid),
            "noise_maps": (steps, *grid),
            "null_embeds": (steps, images, None, None),
            "correction": grid,
            "residuals": (None, images, None),
            "source_image": (None, None, 3),
        }
        for name, tensor in self._tensors.items():
            shape = wanted.get(name, (images, *[None] * (tensor.ndim - 1)))
            fits = tensor.ndim == len(shape) and all(
                side in (None, there) for side, there in zip(shape, tensor.shape, strict=True)
            )
            if not fits:
                raise InversionError(
                    f"the inversion is damaged ({name} has shape {tuple(tensor.shape)}): {_KIND.again}"
                )
            right = tensor.dtype == torch.uint8 if name == "source_image" else tensor.is_floating_point()
            if not right or (name != "residuals" and not bool(torch.isfinite(tensor).all())):
                raise InversionError(f"the inversion is damaged ({name} holds no finite numbers): {_KIND.again}")

    def to(self, device: Any) -> Inversion:
        """The same with its tensors on a device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors.items() if name in _TENSORS}
        extras = {name: tensor.to(device) for name, tensor in self.null_extras.items()}
        return replace(self, **moved, null_extras=extras)
