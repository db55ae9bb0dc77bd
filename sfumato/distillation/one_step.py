"""A student on a one-step network, for real models: adapters on the network and its autoencoder, joined by skips.

Source: pix2pix-turbo (Parmar et al., 2024, https://arxiv.org/abs/2403.12036). The latents of the image itself are what
the network is given at its noisiest time; what it predicts as clean is decoded. The model is one that was distilled for
few steps, such as SD-Turbo, and stays as it is: the student's file holds the adapters alone.

Differs from the authors' code: of the network, attention is adapted and no convolution; the losses are those of the
small student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import checks
from sfumato.adaptation.lora import Lora, adapted, clamped_rank
from sfumato.distillation.student import Edited
from sfumato.distillation.templates import filled
from sfumato.errors import ModelError, UsageError
from sfumato.models.adapted_autoencoder import AdaptedAutoencoder
from sfumato.models.autoencoder import LatentModel
from sfumato.models.base import Model

ONE_STEP = "one-step"
NOISIEST = 1.0 - 1e-6
"""Where on the schedule the network is asked, from the clean end 0 to the noisy end 1."""
BATCH, RATE = 2, 1e-4
"""What suits its training: the network is large, and adapters begin at no change."""


@dataclass(frozen=True)
class OneStepArch:
    """How large the adapters are.

    Attributes:
        rank: Of the network's.
        autoencoder_rank: Of the autoencoder's.
    """

    rank: int = 8
    autoencoder_rank: int = 4

    def __post_init__(self) -> None:
        """Raises UsageError where a value is out of range."""
        checks.whole("rank", self.rank, low=1, high=256)
        checks.whole("autoencoder_rank", self.autoencoder_rank, low=1, high=256)

    def to_json(self) -> dict[str, Any]:
        """As a file of a student holds it."""
        return {"name": ONE_STEP, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> OneStepArch:
        """Reads what `to_json` gave.

        Raises:
            UsageError: It is another architecture.
        """
        if set(values) != {"name", *asdict(cls())} or values.get("name") != ONE_STEP:
            raise UsageError(f"the architecture {checks.shown(dict(values))} is not known to this version")
        return cls(rank=values["rank"], autoencoder_rank=values["autoencoder_rank"])


class OneStepStudent(nn.Module):
    """See the module.

    Args:
        model: The one-step network.
        prompt: What the results show; where it has alternatives, one of each is taken, always the same.
        arch: How large the adapters are.
        seed: Of their draws.

    Raises:
        ModelError: The model has no autoencoder whose stages can be joined.

    Attributes:
        channels: Of the features in `Edited`: mean and spread of each channel of the latents.
    """

    def __init__(self, model: Model, prompt: str, arch: OneStepArch, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(model, LatentModel):
            raise ModelError(f"{model.name} has no autoencoder: use a small student")
        self.arch, self._model = arch, model
        self._condition = model.encode_prompt(filled(prompt, prompt, 0)[0])
        self.channels = 2 * model.latent_channels
        generator = torch.Generator().manual_seed(seed)
        rank, _ = clamped_rank(model, arch.rank, chosen=True)
        lora = Lora.fresh(model, rank, generator=generator)
        self.network = nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in lora.tensors().items()})
        self.autoencoder = AdaptedAutoencoder(model, arch.autoencoder_rank, generator).to(model.device)

    def forward(self, pixels: Tensor) -> Edited:
        """Edits pixels in [-1, 1], (batch, 3, height, width), of any size; see `Edited`. There is no gate."""
        height, width = pixels.shape[2:]
        model, multiple = self._model, self._model.size_multiple
        padded = F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        latents, seen = self.autoencoder.encode(padded.to(model.device))
        time = float(model.schedule.train_times(torch.tensor([NOISIEST]))[0])
        with adapted(model, Lora.from_tensors({_name(key): value for key, value in self.network.items()})):
            output = model.predict(latents, time, self._condition.expand(len(latents)))
        clean = model.schedule.split(output, latents, model.schedule.level(time)).x0
        drawn = self.autoencoder.decode(clean, seen)[..., :height, :width]
        whole = latents.detach().flatten(2)
        return Edited(drawn, None, torch.cat([whole.mean(dim=2), whole.std(dim=2)], dim=1))


def _key(name: str) -> str:
    """A name as parameters may have it."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
