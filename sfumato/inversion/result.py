"""`Inversion`: what a replay needs, in memory and in one `.safetensors` file keyed by content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.errors import InversionError
from sfumato.samplers.bdia import BidirectionalStep
from sfumato.tensorfile import Kind, load_tensors, save_tensors

_KIND = Kind("inversion", "make one with `sfumato invert` or Inversion.save", "invert again", InversionError)
_TENSORS = ("noise", "trajectory", "noise_maps", "null_embeds", "null_pooled_embeds", "correction", "residuals")


@dataclass(frozen=True)
class Inversion:
    """What leads back to an image: inverted once, edited many times. `sample(replay=...)` consumes it.

    Attributes:
        method: Which inversion made it.
        noise: x_T, (image, channels, height, width).
        timesteps: Its grid, noisiest first.
        trajectory: Latents x_0 ... x_T, (steps + 1, image, channels, height, width), or None.
        noise_maps: Noise consumed by each step in sampling order, (steps, image, channels, height, width), or None.
        null_embeds: Embedding in place of the empty prompt's, in sampling order, (steps, image, tokens, dim), or None.
        null_pooled_embeds: The pooled embedding that goes with it, (image, dim), or None: as it is.
        correction: First correction of BDIA's step rule, (image, channels, height, width), or None.
        residuals: How far each step missed while inverting, one entry an iteration, in sampling order,
            (steps, image, iterations), NaN where none was run; what is measured, the inversion says. Or None.
        gamma: Weight of the look back in BDIA's step rule; 0: the replay takes DDIM steps.
        pinned: The replay sets the source branch to the trajectory after every step.
        eta: Stochasticity that the noise maps belong to.
        prompt: Source prompt.
        guidance_scale: Guidance that it was made with.
        model: Revision of the model.
        picture: SHA-256 of the fitted picture's pixels, or "" for latents given directly.
        key: Content hash of image, model and options, see `content_key`.
        start_index: First step that it leads back from; `noise` is at that step's level, and the trajectory ends there.
    """

    method: str
    noise: Tensor
    timesteps: tuple[int, ...]
    trajectory: Tensor | None = None
    noise_maps: Tensor | None = None
    null_embeds: Tensor | None = None
    null_pooled_embeds: Tensor | None = None
    correction: Tensor | None = None
    residuals: Tensor | None = None
    gamma: float = 0.0
    pinned: bool = False
    eta: float = 0.0
    prompt: str = ""
    guidance_scale: float = 1.0
    model: str = ""
    picture: str = ""
    key: str = ""
    start_index: int = 0

    @property
    def clean(self) -> Tensor:
        """The picture's own latents x_0, (image, channels, height, width).

        Raises:
            InversionError: The inversion keeps no trajectory.
        """
        return self.latents_at(-1)

    def holds(self, t: int) -> bool:
        """Whether its trajectory has latents at timestep t of its grid."""
        encoded = self.timesteps[self.start_index :]
        return self.trajectory is not None and len(self.trajectory) == len(encoded) + 1 and t in encoded

    def latents_at(self, t: int) -> Tensor:
        """Latents at timestep t of the trajectory, (image, channels, height, width); t = -1 is the clean image.

        Raises:
            InversionError: The inversion holds no such timestep, or no trajectory.
        """
        if self.trajectory is None:
            raise InversionError(f"a {self.method} inversion keeps no trajectory")
        if t == -1:
            return self.trajectory[0]
        if t not in self.timesteps[self.start_index :]:
            raise InversionError(
                f"the inversion holds no latents at timestep {t}; sample on its own grid of {len(self.timesteps)} steps"
            )
        return self.trajectory[len(self.timesteps) - self.timesteps.index(t)]

    def step_rule(self, start_index: int) -> BidirectionalStep | None:
        """The rule that replays it, new for each run; None: any.

        Raises:
            InversionError: An exact inversion shall be replayed from a later step than its first.
        """
        if self.correction is None:
            return None
        if start_index > 0:
            raise InversionError(
                f"an exact inversion ({self.method}) is replayed from its first step on, not from step"
                f" {start_index + 1}: run all steps, or take another inversion"
            )
        return BidirectionalStep(self.gamma, self.correction)

    def check(self, *, model: str, timesteps: tuple[int, ...], picture: str = "") -> None:
        """Refuses a run that this inversion does not lead back from.

        Raises:
            InversionError: It was made with another model, of another picture, or on another grid.
        """
        if self.picture and picture and self.picture != picture:
            raise InversionError("the inversion was made of another picture: invert this one")
        if self.model and self.model != model:
            raise InversionError(
                f"the inversion was made with model {self.model}, not {model}: invert again with this model"
            )
        if self.timesteps != timesteps:
            raise InversionError(
                f"the inversion has {len(self.timesteps)} steps ({self.timesteps[0]} ... {self.timesteps[-1]}), the run"
                f" {len(timesteps)} ({timesteps[0]} ... {timesteps[-1]}): use num_inference_steps={len(self.timesteps)}"
                " or invert again"
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one `.safetensors` file, whole or not at all.

        Raises:
            InversionError: The folder does not exist or cannot be written, or the name ends otherwise.
        """
        tensors = {name: getattr(self, name) for name in _TENSORS if getattr(self, name) is not None}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TENSORS}
        return save_tensors(path, tensors, plain, _KIND)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Inversion:
        """Reads what `save` wrote.

        Raises:
            InversionError: The file is missing, damaged, or no sfumato inversion.
        """
        tensors, plain = load_tensors(path, _KIND)
        try:
            return cls(**{**plain, "timesteps": tuple(plain["timesteps"]), **tensors})
        except (KeyError, TypeError) as error:
            raise InversionError(f"{path} is damaged ({error}): {_KIND.again}") from error

    def to(self, device: Any) -> Inversion:
        """The same with its tensors on a device."""
        moved = {name: getattr(self, name).to(device) for name in _TENSORS if getattr(self, name) is not None}
        return replace(self, **moved)


def content_key(image: bytes, model: str, options: Mapping[str, Any]) -> str:
    """Hash that two inversions share exactly when image, model and options agree; 16 hexadecimal digits."""
    digest = hashlib.sha256(image)
    digest.update(model.encode())
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
