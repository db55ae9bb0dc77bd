"""A Stable Diffusion XL network without text encoders: what its prompts mean is stored in the cases."""

import json
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from sfumato.models.base import Condition
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.sdxl import POOLED, StableDiffusionXL
from sfumato.models.stable_diffusion import StableDiffusion
from tests.conformance.golden import Case

ROWS = ("source", "target")


class StoredSDXL(StableDiffusionXL):
    """Knows the prompts that it was given, by name."""

    given: dict[str, Condition]
    time_ids: Tensor

    @classmethod
    def read(cls, folder: Path, other: StableDiffusion) -> "StoredSDXL":
        """The network of a folder, with the autoencoder, the text encoder and the tokenizer of another model."""
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
        schedule = DiscreteVP.from_config(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()))
        return cls(
            unet=unet, vae=other.vae, text_encoders=other.text_encoders, tokenizers=[other.text._tokenizer],
            schedule=schedule, name=folder.name, revision="stored",
        )  # fmt: skip

    def take(self, case: Case) -> Sequence[str]:
        """Takes the conditions of a case, a row a prompt, the empty one zeros; gives their names."""
        text, pooled = case.tensors["prompt_embeds"], case.tensors["pooled_embeds"]
        names = ROWS[: len(text)]
        self.given = {name: Condition(text[[k]], {POOLED: pooled[[k]]}) for k, name in enumerate(names)}
        self.given[""] = Condition(torch.zeros_like(text[:1]), {POOLED: torch.zeros_like(pooled[:1])})
        self.time_ids = case.tensors["time_ids"]
        return names

    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        return Condition.cat([self.given[name] for name in ([prompts] if isinstance(prompts, str) else prompts)])

    def _added_conditions(self, latents: Tensor, condition: Condition) -> dict[str, Tensor]:
        return {"text_embeds": condition.extras[POOLED], "time_ids": self.time_ids.expand(len(latents), -1)}


def is_stored_sdxl(folder: Path) -> bool:
    """Whether a folder holds such a network, beside parts of a model with one text encoder."""
    file = folder / "unet" / "config.json"
    added = json.loads(file.read_text()).get("addition_embed_type") if file.is_file() else None
    return added == "text_time" and not (folder / "text_encoder_2").is_dir()
