r"""DiffMorpher (Zhang et al., 2024), https://arxiv.org/abs/2312.07409: interpolates one adapter (LoRA) for each image.

1. An adapter is fitted to each image under its own prompt.
2. Each image is inverted under its own adapter, without guidance.
3. A frame at weight w starts from the noise between the two on the great circle, with its channels' means and standard
   deviations set between theirs (AdaIN). Its embedding is interpolated from those of the prompts. It is sampled under
   the adapter whose *factors* lie between the two. In the first steps the keys and values of the decoder's
   self-attention come from the interpolated layer inputs of the two ends, projected under the frame's own adapter.
4. Weights of even pace come from spacing "reschedule", this method's default.

Differs from the authors' code:

- The share of steps with mixed keys and values is taken of the steps that are run; theirs counts as of 50 (`released`).
- Latents are the mean of the autoencoder's posterior, where theirs are a new sample in every training step.
- The ends are run once; their layer inputs are kept at the steps that read them, 4 GiB at most. Beyond that, and under
  guidance, they are rows of every draw, which gives the same numbers.
- The guidance scale is 1, as the authors use none; a larger one holds in the middle, and falls to 1 at the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Literal

import torch
from torch import Tensor

from sfumato.adaptation.fine_tune import fine_tune
from sfumato.adaptation.lora import Lora, RowAdapters, adapted, widest_rank
from sfumato.adaptation.training import Draws
from sfumato.attention.interpolate import END, START, InterpolatedSource
from sfumato.attention.patch import AttentionControl
from sfumato.attention.record import Recorder
from sfumato.conditions.mixing import mixed_condition
from sfumato.inversions.method import INVERSIONS
from sfumato.models.attention import AttentionSite
from sfumato.models.base import Condition, Model
from sfumato.morphs.between_inversions import KEPT_AT_MOST, draw_between, tent
from sfumato.morphs.method import morph_method
from sfumato.morphs.path import MorphPath
from sfumato.morphs.slerp import slerp
from sfumato.morphs.task import MorphTask
from sfumato.options import Option
from sfumato.sampling.layout import Branch, Control
from sfumato.sampling.loop import sample
from sfumato.watch import Watch


@morph_method(
    "diffmorpher",
    summary="Fits an adapter to each image, then interpolates adapters, noise, embeddings and attention.",
    when="Two images of similar layout, and half a minute of training is acceptable.",
    cost="400 evaluations with a backward pass and 4 a step to prepare, then 1 a step and frame.",
    needs=("decoder",),
    spacing="reschedule",
    guidance_scale=1.0,
)
def diffmorpher(
    task: MorphTask,
    *,
    lora_rank: Annotated[
        int, Option("rank of each image's adapter; higher fits the image more closely", low=1, high=1024)
    ] = 16,
    lora_steps: Annotated[
        int, Option("training steps of each adapter; more fit the image more closely, 0 trains none", low=0)
    ] = 200,
    lora_rate: Annotated[float, Option("learning rate of the adapters", low=1e-8, high=1)] = 2e-4,
    lora_weight: Annotated[
        float | None,
        Option(
            "weight of the second image's adapter in all frames; none: each frame's own weight",
            low=0,
            high=1,
        ),
    ] = None,
    attention_share: Annotated[
        float,
        Option(
            "share of the steps, from the first, with keys and values interpolated from both images; higher is"
            " smoother (the paper's lambda)",
            low=0,
            high=1,
        ),
    ] = 0.6,
    own_attention: Annotated[
        float, Option("weight of the frame's own layer inputs in these keys and values", low=0, high=1)
    ] = 0.0,
    adain: Annotated[
        bool, Option("interpolate mean and standard deviation of the noise too, so that colours change smoothly")
    ] = True,
    inversion: Annotated[
        Literal["ddim", "fixed-point", "regularised-ddim"], Option("inversion of the two images")
    ] = "ddim",
    released: Annotated[
        bool, Option("take attention_share of 50 steps, whatever the number of steps, as the authors' code does")
    ] = False,
) -> MorphPath:
    """Trains both adapters, inverts both images, and prepares the frames between; guidance is 1 at the ends."""
    model, steps = task.model, task.num_inference_steps
    rank = min(lora_rank, widest_rank(model))
    loras = _adapters(task, rank, lora_steps, lora_rate)
    inverting, noise = task.inversion(), []
    for k, lora in enumerate(loras):
        with adapted(model, lora):
            noise.append(INVERSIONS[inversion].function(inverting.image(k)).noise)
    attention_steps = ceil(attention_share * (50 if released else steps) - 1e-9)
    plan = DiffMorpherPath(
        torch.cat(noise), task.condition, loras, tuple(step.time for step in inverting.steps), adain=adain,
        lora_weight=lora_weight, attention_steps=min(attention_steps, steps), own_attention=own_attention,
    )  # fmt: skip
    # With guidance the ends' unconditional halves are read too, which a run of the ends alone has not
    keeps = task.guidance_scale == 1.0 and 0 < plan.kept_bytes(model) <= KEPT_AT_MOST
    kept = Recorder(spill=True) if keeps else None

    def run(weights: Sequence[float]) -> Tensor:
        return plan.frames(
            model, weights, negative=task.negative, guidance_scale=task.guidance_scale, kept=kept,
            watch=task.frame_watch,
        )  # fmt: skip

    narrow = f"the adapters have rank {rank}, not {lora_rank}: the model's layers allow no more"
    return MorphPath(
        draw_between(run, kept=keeps), notes=() if rank == lora_rank else (narrow,), record={"lora_rank": rank}
    )


@dataclass(frozen=True)
class DiffMorpherPath:
    """Two inverted images with their adapters: all that a frame is interpolated from.

    Attributes:
        noise: Of both images, (2, channels, height, width).
        prompts: Of both, two rows.
        loras: Of both.
        timesteps: The grid, noisiest first.
        adain: Whether the noise's means and deviations are interpolated.
        lora_weight: One mixture of the adapters for all frames, ends included; None: each frame's own.
        attention_steps: The first steps, whose keys and values are mixed of both ends.
        own_attention: Part of the frame's own in them, in [0, 1].
    """

    noise: Tensor
    prompts: Condition
    loras: tuple[Lora, Lora]
    timesteps: tuple[float, ...]
    adain: bool = True
    lora_weight: float | None = None
    attention_steps: int = 0
    own_attention: float = 0.0

    def frames(
        self,
        model: Model,
        weights: Sequence[float],
        *,
        negative: Condition | None = None,
        guidance_scale: float = 1.0,
        kept: Recorder | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Samples frames in one batch, the two ends first and last among them, or kept from an earlier run.

        Args:
            model: Any model with self-attention in its decoder.
            weights: Of the rows: 0.0 first and 1.0 last, or, where `kept` was filled by such a run, frames alone.
            negative: The negative prompt, one row.
            guidance_scale: In the middle; 1 at the ends.
            kept: Layer inputs of the ends.
            watch: Progress and cancellation.

        Returns:
            Clean latents, one a weight, (row, channels, height, width).
        """
        conditions, branches = mixed_condition(self.prompts, weights), {}
        for k, weight in enumerate(weights):
            name = {0.0: START, 1.0: END}.get(weight, f"frame-{k}")
            branches[name] = Branch(conditions[[k]], negative, tent(weight, guidance_scale, 1.0))
        loras = [self.lora_at(weight) for weight in weights]
        controls: list[Control] = [RowAdapters({"uncond": loras, "cond": loras})]
        if self.attention_steps > 0:
            layers = [site.name for site in self.decoder(model)]
            mixed = InterpolatedSource(layers, weights, self.attention_steps, own_share=self.own_attention, kept=kept)
            controls.append(AttentionControl([mixed]))
        noise = torch.stack([self.noise_at(weight) for weight in weights])
        return sample(model, noise, branches, timesteps=self.timesteps, controls=controls, watch=watch)[:, 0]

    def decoder(self, model: Model) -> list[AttentionSite]:
        """The self-attention whose keys and values are mixed."""
        sites = model.sites((self.noise.shape[-2], self.noise.shape[-1]))
        return [site for site in sites if site.kind == "self" and site.stage == "up"]

    def kept_bytes(self, model: Model) -> int:
        """Size of both ends' layer inputs at the steps with mixed keys and values."""
        widths = model.attention_projections()
        each = sum(widths[f"{site.name}.to_k"][0] * site.positions for site in self.decoder(model))
        return 2 * each * self.attention_steps * model.dtype.itemsize

    def noise_at(self, weight: float) -> Tensor:
        """Noise that a frame starts from, (1, channels, height, width)."""
        first, second = self.noise.split(1)
        walked = slerp(first, second, weight)
        return adaptive_normalisation(walked, first, second, weight) if self.adain else walked

    def lora_at(self, weight: float) -> Lora:
        """The adapter that a frame runs under."""
        return self.loras[0].lerp(self.loras[1], weight if self.lora_weight is None else self.lora_weight)


def adaptive_normalisation(noise: Tensor, first: Tensor, second: Tensor, weight: float) -> Tensor:
    r"""Gives every channel of a noise the mean and deviation between those of two others (AdaIN).

    .. math:: \frac{x - \mu(x)}{\sqrt{v(x) + \varepsilon}}\,\sigma_w + \mu_w, \qquad
              \mu_w = (1 - w)\mu_0 + w\mu_1,\ \sigma_w = (1 - w)\sigma_0 + w\sigma_1

    v is the biased variance and sigma the root of the unbiased one plus epsilon, 1e-5, so an end returns itself up to
    these constants. In float64.

    Reference: Zhang et al., 2024, https://arxiv.org/abs/2312.07409, section 3.2; Huang & Belongie, 2017,
    https://arxiv.org/abs/1703.06868.

    Args:
        noise, first, second: (image, channels, height, width).
        weight: 0 = first, 1 = second.
    """
    epsilon, plane = 1e-5, (-2, -1)

    def moments(tensor: Tensor) -> tuple[Tensor, Tensor]:
        tensor = tensor.double()
        return tensor.mean(plane, keepdim=True), (tensor.var(plane, keepdim=True) + epsilon).sqrt()

    (mean_0, std_0), (mean_1, std_1) = moments(first), moments(second)
    centred = noise.double() - noise.double().mean(plane, keepdim=True)
    whitened = centred / (noise.double().var(plane, correction=0, keepdim=True) + epsilon).sqrt()
    styled: Tensor = whitened * torch.lerp(std_0, std_1, weight) + torch.lerp(mean_0, mean_1, weight)
    return styled.to(noise.dtype)


def _adapters(task: MorphTask, rank: int, steps: int, rate: float) -> tuple[Lora, Lora]:
    """One adapter an image, trained or from the store."""
    seed = int(torch.randint(2**62, (), generator=task.generator))
    fresh = [Lora.fresh(task.model, rank, generator=torch.Generator().manual_seed(seed)) for _ in task.ends.prompts]
    draws = Draws(seed, shared=True)  # both images see the same draws, so equal images get equal adapters
    options = {"method": "diffmorpher", "rank": rank, "steps": steps, "rate": rate, "seed": seed}
    first, second = fine_tune(
        task.model, task.ends.latents, task.condition, fresh, iterations=steps, draws=draws, learning_rate=rate,
        slot=task.slot("lora", options), watch=task.watch.during("training adapters"),
    ).loras  # fmt: skip
    return first, second
