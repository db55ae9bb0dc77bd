"""The protocol through which every method sees a model, and the data that it takes and gives.

A method never sees a UNet, a guidance batch, extra conditions or a prediction target: the adapter settles them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.errors import ModelError, UsageError
from sfumato.models.attention import AttentionSite, DecoderBlock, FeatureHook, KernelHook, ProjectionHook, SourceHook
from sfumato.models.feature_cache import FeatureCache
from sfumato.models.schedules import Level, Schedule

GUIDANCE = "guidance"
"""Name of the guidance scale of each row, (rows,), among the extras of a condition; absent: 1 (off)."""

POOLED = "pooled"
"""Name of the pooled text embedding, (rows, dim), among the extras of a condition."""


@dataclass(frozen=True, eq=False)
class Condition:
    """What the network is conditioned on besides latents and time; one row a prompt.

    Attributes:
        text: What attention reads of the prompts, (rows, tokens, dim).
        extras: Whatever else, each (rows, ...), by names that the model alone gives and reads: all others treat every
            tensor alike.
    """

    text: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Positions on the text axis."""
        return self.text.shape[1]

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice | list[int]) -> Condition:
        return self.each(lambda tensor: tensor[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same with every tensor changed; the first axis stays that of rows."""
        return Condition(change(self.text), {name: change(tensor) for name, tensor in self.extras.items()})

    def repeat(self, count: int) -> Condition:
        """Every row `count` times, equal rows side by side."""
        return self.each(lambda tensor: tensor.repeat_interleave(count, dim=0))

    def expand(self, rows: int) -> Condition:
        """The same condition for `rows` rows.

        Raises:
            UsageError: The condition has neither one row nor `rows` rows.
        """
        if len(self) not in (1, rows):
            raise UsageError(f"a condition of {len(self)} rows does not fit a batch of {rows}")
        return self if len(self) == rows else self.repeat(rows)

    def with_text(self, text: Tensor) -> Condition:
        """The same with another text, (rows, tokens, dim)."""
        return replace(self, text=text)

    def with_extras(self, extras: Mapping[str, Tensor]) -> Condition:
        """The same with these tensors beside the text, in the place of those of their names."""
        return replace(self, extras={**self.extras, **extras})

    def equals(self, other: Condition) -> bool:
        """Whether both condition the network alike."""
        return (
            torch.equal(self.text, other.text)
            and self.extras.keys() == other.extras.keys()
            and all(torch.equal(tensor, other.extras[name]) for name, tensor in self.extras.items())
        )

    def padded(self, tokens: int, empty: Condition) -> Condition:
        """The same with `tokens` tokens a row: as many chunks of the empty prompt (one row) follow as are missing."""
        missing = tokens - self.tokens
        if missing == 0:
            return self
        chunk = empty.text.to(self.text)
        filling = chunk.repeat(len(self), missing // chunk.shape[1], 1)
        return self.with_text(torch.cat([self.text, filling], dim=1))

    @staticmethod
    def equally_long(conditions: Sequence[Condition], empty: Condition) -> list[Condition]:
        """The conditions, each padded to the tokens of the longest; see `padded`."""
        tokens = max(condition.tokens for condition in conditions)
        return [condition.padded(tokens, empty) for condition in conditions]

    @staticmethod
    def joined(conditions: Sequence[Condition], join: Callable[[list[Tensor]], Tensor]) -> Condition:
        """One condition of several: `join` is given the text of all, and each of the other tensors of all.

        Raises:
            UsageError: They do not hold the same tensors, so they come from different models.
        """
        names = conditions[0].extras.keys()
        if any(condition.extras.keys() != names for condition in conditions):
            held = " and ".join(sorted({", ".join(("text", *condition.extras)) for condition in conditions}))
            raise UsageError(f"these conditions do not fit one another ({held}): encode all prompts with one model")
        return Condition(
            join([condition.text for condition in conditions]),
            {name: join([condition.extras[name] for condition in conditions]) for name in names},
        )

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Stacks rows; all conditions come from the same model and have equally many tokens."""
        return Condition.joined(conditions, torch.cat)


class TextSide(Protocol):
    """Which words stand at which positions of the text that attention looks at.

    Attributes:
        length: Positions of one chunk of text, where attention is edited; the last is an end or padding. 0: the model
            reads no text.
        start: Positions before the first word.
    """

    length: int
    start: int

    def words(self, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
        """The words of a prompt and its punctuation, in order, each with all its positions.

        Weights written in the prompt are left out. Of a longer prompt, positions beyond `length` are those of its
        further chunks; they may lie beyond the text where an encoder needs more chunks than attention sees.
        """

    def tokens(self, prompt: str) -> list[tuple[int, str]]:
        """The tokens of a prompt as it is, from position `start` on: number and characters."""


class Model(ABC):
    """A pretrained text-to-image latent diffusion model.

    Attributes:
        name, revision: What was loaded: the name asked for, and the hub commit or content fingerprint.
        device, dtype: Where and in what precision the networks compute.
        schedule: Noise levels.
        text: Words to positions.
        latent_channels: Channels of the latents.
        vae_scale_factor: Pixels per latent, along one side.
        sample_size: (height, width) in pixels that the model was trained at.
        guidance_scale, num_inference_steps: What suits the model where the user says nothing.
        distance, encoder: Names of the perceptual distance and of the dual encoder that suit its images; None: none of
            its own.
        method_options, method_guidance: Likewise, options and guidance of methods and morphs by their name.
        sampler: Name of the sampler that suits it, see `sampling.samplers`.
        few_steps: Whether it was distilled for a few steps: then the two lines above stand before what a method's
            paper says.
        takes_guidance: Whether the network takes the guidance scale as an input (`with_guidance`) and needs no
            unconditional row.
        caches_features: Whether deep features can be used again in later steps, see `cached_features`.
        notes: What was decided when it was loaded, in words for the user.
        parts: Files that were added to it (LoRAs, embeddings, a VAE), as they stand in a recipe.
        keeping_weights: What networks are called in: it keeps their weights for gradients, where diffusers takes them
            away after each call.
        evaluations: Single-sample network evaluations so far, over the model's life; read differences.
    """

    name: str
    revision: str
    device: torch.device
    dtype: torch.dtype
    schedule: Schedule
    text: TextSide
    latent_channels: int
    vae_scale_factor: int
    sample_size: tuple[int, int]
    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    distance: str | None = None
    encoder: str | None = None
    method_options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    method_guidance: Mapping[str, float] = MappingProxyType({})
    sampler: str = "ddim"
    few_steps: bool = False
    takes_guidance: bool = False
    caches_features: bool = False
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Any] = MappingProxyType({})
    keeping_weights: Callable[[], AbstractContextManager[Any]] = nullcontext
    evaluations: int = 0

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Scaled latents (the posterior's mean), (batch, channels, height, width) float32, of pixels in [-1, 1]."""

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels, (batch, 3, H, W) float32, nominally in [-1, 1], of scaled latents."""

    @abstractmethod
    def encode_prompt(self, prompts: str | Sequence[str]) -> Condition:
        """One row a prompt, all rows padded to the same number of tokens; long prompts take several chunks."""

    def with_guidance(self, condition: Condition, scales: Tensor) -> Condition:
        """The condition with the guidance scale of each row, (rows,), for a network that takes it as an input."""
        return condition.with_extras({GUIDANCE: scales}) if self.takes_guidance else condition

    @abstractmethod
    def predict(self, latents: Tensor, t: float | Sequence[float], condition: Condition) -> Tensor:
        """The network's output, shaped and typed like the latents, in the target space of `schedule.prediction_type`.

        One t for all rows, or one a row. Counts `len(latents)` evaluations. Differentiable in latents and condition.
        """

    def predict_noise(
        self,
        latents: Tensor,
        t: float,
        condition: Condition,
        *,
        level: Level | None = None,
    ) -> Tensor:
        """Predicted noise, shaped like the latents.

        Args:
            latents: (rows, channels, height, width).
            t: Time that the network is conditioned on.
            condition: As many rows as the latents.
            level: Level of the latents where it is not that of t (an inversion may tell the next one).
        """
        level = self.schedule.level(t) if level is None else level
        return self.schedule.split(self.predict(latents, t, condition), latents, level).eps

    @abstractmethod
    def sites(self, latent_size: tuple[int, int]) -> tuple[AttentionSite, ...]:
        """All attention layers in execution order, with their grids at that latent size."""

    def decoder_blocks(self) -> tuple[DecoderBlock, ...]:
        """The residual blocks of its decoder in execution order; none for a network without a decoder of stages."""
        return ()

    @abstractmethod
    def kernel_hook(self, hook: KernelHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        """Gives the kernel calls of the named sites to `hook` inside the block and leaves the model as found.

        The layers themselves stay the network's own; a layer on another kernel is set to the fused one for the block.

        Raises:
            ModelError: A site's attention cannot be taken over (an unknown processor); the model is untouched.
        """

    @abstractmethod
    def source_hook(self, hook: SourceHook, sites: Sequence[AttentionSite]) -> AbstractContextManager[None]:
        """Passes what the named sites' keys and values are projected from through `hook`; leaves the model as found.

        Raises:
            ModelError: As `kernel_hook`.
        """

    @abstractmethod
    def feature_hook(self, layer_names: Sequence[str], hook: FeatureHook) -> AbstractContextManager[None]:
        """Passes the outputs of the named layers through `hook` inside the block and leaves the model as found.

        Raises:
            ModelError: The network has no such layer.
        """

    @abstractmethod
    def attention_projections(self) -> dict[str, tuple[int, int]]:
        """The linear layers of attention and their (input, output) widths.

        Names are an attention layer's name and `.to_q`, `.to_k`, `.to_v` or `.to_out`.
        """

    @abstractmethod
    def projection_hook(self, names: Collection[str], hook: ProjectionHook) -> AbstractContextManager[None]:
        """Passes the outputs of the named projections through `hook` inside the block; leaves the model as found.

        Raises:
            ModelError: The network has no such projection.
        """

    def cached_features(self) -> AbstractContextManager[FeatureCache]:
        """Lets deep features be used again in later steps inside the block and leaves the model as found.

        Raises:
            ModelError: The network has no deep stages that could be skipped.
        """
        raise ModelError(f"{self.name!r} has no deep stages to use features of again: leave out cache_interval")

    @property
    def networks(self) -> tuple[object, ...]:
        """What a run has to itself while it lasts: models that share one of these take turns."""
        return (self,)

    @property
    def recipe(self) -> dict[str, Any]:
        """Its entries in the recipe of a result: name, revision, and the files that were added to it."""
        return {"model": self.name, "revision": self.revision, **self.parts}

    @property
    def size_multiple(self) -> int:
        """Height and width of an image must be multiples of this many pixels."""
        return self.vae_scale_factor

    @property
    def text_fingerprint(self) -> str:
        """Equal for two models exactly where their text embeddings mean the same; "" for a model without text."""
        return ""

    def latent_shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of an image of `size` = (height, width) in pixels."""
        height, width = size or self.sample_size
        for side in (height, width):
            if side % self.size_multiple or side <= 0:
                raise UsageError(f"height and width must be multiples of {self.size_multiple}, got {height}x{width}")
        return self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} on {self.device.type}, {str(self.dtype).removeprefix('torch.')}>"
